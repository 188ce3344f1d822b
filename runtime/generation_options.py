"""How to generate: the reference's options under its names, from generation_config.json and per call.

Source: transformers 5.23, GenerationConfig.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

import numpy as np

from .errors import ModelFolderError, PromptError

DEFAULT_MAX_NEW_TOKENS = 256


@dataclass(frozen=True)
class GenerationOptions:
    """One call's options."""

    max_new_tokens: int | None = None
    """None: DEFAULT_MAX_NEW_TOKENS, or as many as fit the model behind the prompt."""
    min_new_tokens: int = 0
    """No end token before that many."""
    do_sample: bool = False
    """Draw tokens by their probability instead of taking the likeliest."""
    temperature: float = 1.0
    top_k: int = 50
    """Draw from the k likeliest only; 0: from all."""
    top_p: float = 1.0
    """Draw from the fewest that hold this share of the probability."""
    min_p: float | None = None
    """Draw from those at least this much times as likely as the likeliest."""
    typical_p: float = 1.0
    """Draw from those of nearly expected surprise that hold this share of the probability."""
    repetition_penalty: float = 1.0
    """Above 1, tokens that occurred, in the prompt too, are less likely."""
    no_repeat_ngram_size: int = 0
    """No sequence of that many tokens occurs twice, the prompt included."""
    bad_words_ids: tuple[tuple[int, ...], ...] = ()
    """Sequences of tokens that are never generated."""
    suppress_tokens: tuple[int, ...] = ()
    """Tokens that are never generated."""
    eos_token_id: tuple[int, ...] = ()
    """Any of these ends an answer."""
    pad_token_id: int | None = None
    """What stands behind the answers of a batch that ended; None is the first end token, or 0."""
    stop_strings: tuple[str, ...] = ()
    """Text that ends an answer and is cut off it."""
    seed: int | None = None
    """Same seed, same text, alone or in a batch; None draws a new one."""
    num_return_sequences: int = 1
    """Answers per prompt, one after another in the result."""
    num_beams: int = 1
    """Above 1: beam search."""
    length_penalty: float = 1.0
    """Above 0, beam search prefers long answers, below it short ones."""
    early_stopping: bool | Literal["never"] = False
    """When beam search ends: True at num_beams answers, False when better ones are unlikely, "never" when impossible."""
    prompt_lookup_num_tokens: int = 0
    """Guess that many tokens at most from what followed the same words before, and check them in one decoder call."""
    logprobs: bool = False
    """Give each token's log-probability, before any option changed it."""
    top_logprobs: int = 0
    """Give those of the likeliest tokens too."""
    echo: bool = False
    """Put the prompt in front of the answer."""

    @classmethod
    def from_configs(cls, generation: dict[str, Any], config: dict[str, Any]) -> GenerationOptions:
        """From generation_config.json, with config.json for the end tokens where the former has none.

        Raises:
            ModelFolderError: an option is wrong, or one that would change answers is not known here.
        """
        text = config.get("text_config")
        places = (generation, config, text if isinstance(text, dict) else {})
        eos = next((c["eos_token_id"] for c in places if c.get("eos_token_id") is not None), None)
        chosen = {name: generation[name] for name in _CHECKS if generation.get(name) is not None}
        if not chosen.get("do_sample"):  # what only sampling reads may be anything
            chosen = {name: value for name, value in chosen.items() if name not in _SAMPLING or _is_right(name, value)}
        unknown = [name for name, neutral in _NOT_OFFERED.items() if generation.get(name) not in (None, *neutral)]
        try:
            if unknown:
                raise PromptError(f"it sets {', '.join(unknown)}, which this package does not offer. Remove it to go without.")
            return cls()._with(chosen if eos is None else chosen | {"eos_token_id": eos})
        except PromptError as error:
            raise ModelFolderError(f"generation_config.json cannot be used: {error}") from error

    def replace(self, **options: Any) -> GenerationOptions:
        """These options with some changed; None keeps one.

        Raises:
            PromptError: an option is unknown, wrong, or contradicts another.
        """
        for name in options:
            if name not in _CHECKS:
                raise PromptError(f"There is no generation option {name!r}. The options are {', '.join(_CHECKS)}.")
        given = {name: value for name, value in options.items() if value is not None}
        changed = self._with(given)
        for name in given:
            if getattr(changed, name) == getattr(GenerationOptions(), name):
                continue
            if name in _SAMPLING and not changed.do_sample:
                raise PromptError(f"{name} is {given[name]!r}, but do_sample is False. Give do_sample=True, or leave {name} out.")
            if name in _BEAMS and changed.num_beams == 1:
                raise PromptError(f"{name} is {given[name]!r}, but num_beams is 1. Give num_beams above 1, or leave {name} out.")
        changed._check_together()
        return changed

    def _with(self, options: dict[str, Any]) -> GenerationOptions:
        return replace(self, **{name: _CHECKS[name](name, value) for name, value in options.items()})

    def _check_together(self) -> None:
        """Raise PromptError for options that exclude each other."""
        beams, several = self.num_beams, self.num_return_sequences
        if self.max_new_tokens is not None and self.min_new_tokens > self.max_new_tokens:
            raise PromptError(
                f"min_new_tokens is {self.min_new_tokens}, more than max_new_tokens, {self.max_new_tokens}. Lower it."
            )
        if several > 1 and beams == 1 and not self.do_sample:
            raise PromptError(
                f"num_return_sequences is {several}, but greedy answers would all be equal. Give do_sample=True or num_beams."
            )
        if 1 < beams < several:
            raise PromptError(f"num_return_sequences is {several}, more than num_beams, {beams}. Raise num_beams.")
        for name, off in (("do_sample", False), ("prompt_lookup_num_tokens", 0), ("logprobs", False)):
            if beams > 1 and (value := getattr(self, name)):
                raise PromptError(
                    f"num_beams is {beams} and {name} {value}, which exclude each other. Give num_beams=1, or {name}={off}."
                )
        if self.top_logprobs and not self.logprobs:
            raise PromptError(f"top_logprobs is {self.top_logprobs}, but logprobs is False. Give logprobs=True.")

    def check_one_answer(self) -> None:
        """Raise PromptError unless there is one answer that grows token by token, as streams and chats need it."""
        for name in ("num_beams", "num_return_sequences"):
            if getattr(self, name) > 1:
                raise PromptError(
                    f"{name} is {getattr(self, name)}, but one answer is given, as it grows. Give {name}=1, or use generate."
                )

    def new_tokens(self, prompt_tokens: int, max_positions: int) -> int:
        """How many tokens may follow a prompt: what was asked for, or without that what is usual and fits."""
        if self.max_new_tokens is not None:
            return self.max_new_tokens
        return max(1, self.min_new_tokens, min(DEFAULT_MAX_NEW_TOKENS, max_positions - prompt_tokens))

    @property
    def banned(self) -> list[tuple[int, ...]]:
        """The bad words, but for end tokens, which the reference lets through."""
        return [word for word in self.bad_words_ids if len(word) > 1 or word[0] not in self.eos_token_id]


def _is_right(name: str, value: Any) -> bool:
    try:
        _CHECKS[name](name, value)
    except PromptError:
        return False
    return True


def _is_whole(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def _whole(least: int) -> Callable[[str, Any], int]:
    def check(name: str, value: Any) -> int:
        if not _is_whole(value) or not least <= value < 1 << 31:
            raise PromptError(f"{name} is {value!r:.60}. Give a whole number from {least}, below 2³¹.")
        return int(value)

    return check


def _number(low: float, high: float) -> Callable[[str, Any], float]:
    def check(name: str, value: Any) -> float:
        number = isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)
        if not number or not low <= value <= high:
            raise PromptError(f"{name} is {value!r:.60}. Give a number from {low:g} to {high:g}.")
        return float(value)

    return check


def _flag(name: str, value: Any) -> bool:
    if not isinstance(value, bool | np.bool_):
        raise PromptError(f"{name} is {value!r:.60}. Give True or False.")
    return bool(value)


def _ids(name: str, values: Any) -> tuple[int, ...]:
    if isinstance(values, np.ndarray):
        values = values.tolist()
    if _is_whole(values):
        values = [values]
    if isinstance(values, list | tuple) and all(_is_whole(v) and 0 <= v < 1 << 31 for v in values):
        return tuple(int(v) for v in values)
    raise PromptError(f"{name} has {values!r:.60}. Give whole numbers from 0.")


def _words(name: str, values: Any) -> tuple[tuple[int, ...], ...]:
    if not isinstance(values, list | tuple) or not all(isinstance(word, list | tuple) for word in values):
        raise PromptError(f"{name} is {values!r:.60}. Give a list of lists of token ids.")
    words = tuple(_ids(name, word) for word in values)
    if not all(words):
        raise PromptError(f"{name} has an empty sequence. Give at least one token id in each.")
    return words


def _strings(name: str, values: Any) -> tuple[str, ...]:
    values = [values] if isinstance(values, str) else values
    if not isinstance(values, list | tuple) or not all(isinstance(v, str) and v for v in values):
        raise PromptError(f"{name} is {values!r:.60}. Give a string that is not empty, or a list of such strings.")
    return tuple(values)


def _early(name: str, value: Any) -> bool | Literal["never"]:
    if isinstance(value, str) and value == "never":
        return "never"
    if not isinstance(value, bool | np.bool_):
        raise PromptError(f'{name} is {value!r:.60}. Give True, False or "never".')
    return bool(value)


_CHECKS: dict[str, Callable[[str, Any], Any]] = {
    "max_new_tokens": _whole(1),
    "min_new_tokens": _whole(0),
    "do_sample": _flag,
    "temperature": _number(1e-5, 1e5),
    "top_k": _whole(0),
    "top_p": _number(0, 1),
    "min_p": _number(0, 1),
    "typical_p": _number(1e-5, 1),
    "repetition_penalty": _number(1e-5, 1e5),
    "no_repeat_ngram_size": _whole(0),
    "bad_words_ids": _words,
    "suppress_tokens": _ids,
    "eos_token_id": _ids,
    "pad_token_id": _whole(0),
    "stop_strings": _strings,
    "seed": _whole(0),
    "num_return_sequences": _whole(1),
    "num_beams": _whole(1),
    "length_penalty": _number(-9, 9),
    "early_stopping": _early,
    "prompt_lookup_num_tokens": _whole(0),
    "logprobs": _flag,
    "top_logprobs": _whole(0),
    "echo": _flag,
}
assert list(_CHECKS) == [field.name for field in fields(GenerationOptions)]

_SAMPLING = ("temperature", "top_k", "top_p", "min_p", "typical_p")
_BEAMS = ("length_penalty", "early_stopping")
_NOT_OFFERED: dict[str, tuple[Any, ...]] = {
    "begin_suppress_tokens": ([],), "diversity_penalty": (0,), "encoder_no_repeat_ngram_size": (0,),
    "encoder_repetition_penalty": (1,), "epsilon_cutoff": (0,), "eta_cutoff": (0,), "exponential_decay_length_penalty": (),
    "forced_bos_token_id": (), "forced_eos_token_id": (), "guidance_scale": (1,), "min_length": (0,), "num_beam_groups": (1,),
    "penalty_alpha": (0,), "renormalize_logits": (False,), "sequence_bias": ({}, []), "top_h": (), "watermarking_config": (),
}  # fmt: skip
"""Options of the reference that would change an answer, and the values at which they do not; a folder that sets another is
refused rather than answered otherwise."""
