"""How to generate: the reference's options under its names, from generation_config.json and per call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .errors import ModelFolderError, PromptError

DEFAULT_MAX_NEW_TOKENS = 256


@dataclass(frozen=True)
class GenerationOptions:
    """One call's options."""

    max_new_tokens: int | None = None
    """None: DEFAULT_MAX_NEW_TOKENS, or as many as fit the model behind the prompt."""
    eos_token_id: tuple[int, ...] = ()
    """Any of these ends an answer."""
    bad_words_ids: tuple[tuple[int, ...], ...] = ()
    """Sequences of tokens that are never generated."""
    pad_token_id: int | None = None
    """What stands behind the answers of a batch that ended; None is the first end token, or 0."""

    @classmethod
    def from_configs(cls, generation: dict[str, Any], config: dict[str, Any]) -> GenerationOptions:
        """From generation_config.json, with config.json for the end tokens where the former has none."""
        text = config.get("text_config")
        places = (generation, config, text if isinstance(text, dict) else {})
        eos = next((c["eos_token_id"] for c in places if c.get("eos_token_id") is not None), ())
        try:
            return cls().replace(
                max_new_tokens=generation.get("max_new_tokens"),
                eos_token_id=eos,
                bad_words_ids=generation.get("bad_words_ids"),
                pad_token_id=generation.get("pad_token_id"),
            )
        except PromptError as error:
            raise ModelFolderError(f"generation_config.json cannot be used: {error}") from error

    def replace(
        self,
        max_new_tokens: int | None = None,
        eos_token_id: int | Sequence[int] | None = None,
        bad_words_ids: Sequence[Sequence[int]] | None = None,
        pad_token_id: int | None = None,
    ) -> GenerationOptions:
        """These options with some changed; None keeps one."""
        if max_new_tokens is not None and _ids("max_new_tokens", [max_new_tokens])[0] < 1:
            raise PromptError(f"max_new_tokens is {max_new_tokens}. Give 1 or more.")
        eos, words, pad = self.eos_token_id, self.bad_words_ids, self.pad_token_id
        if eos_token_id is not None:
            eos = _ids("eos_token_id", [eos_token_id] if isinstance(eos_token_id, int | np.integer) else eos_token_id)
        if bad_words_ids is not None:
            if not isinstance(bad_words_ids, list | tuple):
                raise PromptError(f"bad_words_ids is {bad_words_ids!r:.60}. Give a list of lists of token ids.")
            words = tuple(_ids("bad_words_ids", word) for word in bad_words_ids)
            if not all(words):
                raise PromptError("bad_words_ids has an empty sequence. Give at least one token id in each.")
        if pad_token_id is not None:
            pad = _ids("pad_token_id", [pad_token_id])[0]
        return GenerationOptions(self.max_new_tokens if max_new_tokens is None else int(max_new_tokens), eos, words, pad)

    def new_tokens(self, prompt_tokens: int, max_positions: int) -> int:
        """How many tokens may follow a prompt: what was asked for, or without that what is usual and fits."""
        if self.max_new_tokens is not None:
            return self.max_new_tokens
        return max(1, min(DEFAULT_MAX_NEW_TOKENS, max_positions - prompt_tokens))

    @property
    def banned(self) -> list[tuple[int, ...]]:
        """The bad words, but for end tokens, which the reference lets through."""
        return [word for word in self.bad_words_ids if len(word) > 1 or word[0] not in self.eos_token_id]


def _ids(name: str, values: Any) -> tuple[int, ...]:
    """Token ids or counts as a tuple of ints; PromptError if they are none."""
    if isinstance(values, list | tuple | np.ndarray) and all(isinstance(v, int | np.integer) for v in values):
        found = tuple(int(v) for v in values)
        if all(v >= 0 for v in found):
            return found
    raise PromptError(f"{name} has {values!r:.60}. Give whole numbers from 0.")
