"""How to generate: the reference's options under its names, from generation_config.json and per call.

Source: transformers 5.23, GenerationConfig.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, Literal

from ...graphs.errors import ModelFolderError
from .. import checks as values
from ..errors import PromptError, PromptTooLongError
from . import grammar_source
from .generation_config import options_in

DEFAULT_MAX_NEW_TOKENS = 256
MAX_ROWS = 4096
"""Answers or beams of one prompt. What so many need of memory is checked when the prompt's length is known."""


@dataclass(frozen=True)
class GenerationOptions:
    """One call's options."""

    max_new_tokens: int | None = None
    """None: as many as `max_length` says."""
    max_length: int | None = None
    """Most tokens of prompt and answer together; None: DEFAULT_MAX_NEW_TOKENS, or as many as fit the model after the prompt."""
    min_new_tokens: int | None = None
    """No end token before that many; None: as `min_length` says."""
    min_length: int = 0
    """No end token before prompt and answer together have that many tokens."""
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
    top_h: float | None = None
    """Draw from the likeliest whose entropy is no more than this share of the distribution's."""
    epsilon_cutoff: float = 0.0
    """Draw from those at least this likely."""
    eta_cutoff: float = 0.0
    """Draw from those at least this likely, or less where the distribution is flat."""
    repetition_penalty: float = 1.0
    """Above 1, tokens that occurred, in the prompt too, are less likely."""
    encoder_repetition_penalty: float = 1.0
    """Above 1, tokens of the prompt are more likely."""
    no_repeat_ngram_size: int = 0
    """No sequence of that many tokens occurs twice, the prompt included."""
    bad_words_ids: tuple[tuple[int, ...], ...] = ()
    """Sequences of tokens that are never generated."""
    suppress_tokens: tuple[int, ...] = ()
    """Tokens that are never generated."""
    begin_suppress_tokens: tuple[int, ...] = ()
    """Tokens that no answer begins with."""
    sequence_bias: tuple[tuple[tuple[int, ...], float], ...] = ()
    """Sequences of tokens, and what is added to the score of the last one after the others."""
    logit_bias: tuple[tuple[int, float], ...] = ()
    """Tokens, and what is added to their scores."""
    frequency_penalty: float = 0.0
    """Taken off a token's score for each time that the answer has it already."""
    presence_penalty: float = 0.0
    """Taken off a token's score once the answer has it."""
    eos_token_id: tuple[int, ...] = ()
    """Any of these ends an answer."""
    json_schema: str | None = None
    """The answer is JSON by this schema: a dict, JSON text, a Path, or a pydantic model's class. Kept as text."""
    regex: str | None = None
    """The whole answer matches this regular expression (Rust's)."""
    grammar: str | None = None
    """The answer follows this Lark grammar: text, or the Path of a file."""
    pad_token_id: int | None = None
    """What follows the answers of a batch that ended; None is the first end token, or 0."""
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
    renormalize_logits: bool = False
    """Whether beam search adds up log-probabilities of what the other options left."""
    max_time: float | None = None
    """Seconds after which an answer ends with the token that is being made."""
    stopping_criteria: tuple[values.Criterion, ...] = ()
    """An answer ends when one of these says so. Called after every token with prompt and answer, int64 [1, seq], and None where
    the reference may give scores; from another thread, an event that is set ends it: lambda ids, scores: event.is_set()."""
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
        try:
            chosen = options_in(generation, config, _CHECKS)
            if not chosen.get("do_sample"):  # what only sampling reads may be anything
                chosen = {name: value for name, value in chosen.items() if name not in _SAMPLING or _is_right(name, value)}
            options = replace(cls(), **cls.checked(chosen))
            options._check_together()
        except PromptError as error:
            raise ModelFolderError(
                f"generation_config.json cannot be used: {error} Change that in the checkpoint's file and export again."
            ) from error
        return options

    def replace(self, **options: Any) -> GenerationOptions:
        """These options with some changed; None keeps one.

        Raises:
            PromptError: an option is unknown, wrong, or contradicts another.
        """
        given = self.checked(options)
        changed = replace(self, **given)
        for name in given:
            if getattr(changed, name) == getattr(GenerationOptions(), name):
                continue
            if name in _SAMPLING and not changed.do_sample:
                raise PromptError(
                    f"{name} is {given[name]!r:.60}, but do_sample is False. Give do_sample=True, or leave {name} out."
                )
            if name in _BEAMS and changed.num_beams == 1:
                raise PromptError(
                    f"{name} is {given[name]!r:.60}, but num_beams is 1. Give num_beams above 1, or leave {name} out."
                )
        least, most = changed.min_new_tokens, changed.max_new_tokens
        if "min_new_tokens" in given and least is not None and most is not None and least > most:
            raise PromptError(f"min_new_tokens is {least}, more than max_new_tokens, {most}. Lower it.")
        changed._check_together()
        return changed

    @staticmethod
    def checked(options: dict[str, Any]) -> dict[str, Any]:
        """Options in their normal form, those that are None left out; PromptError if one is unknown or wrong by itself."""
        found = {}
        for name, value in options.items():
            if name in _NEUTRAL:
                if not values.is_one_of(value, (None, _NEUTRAL[name])):
                    raise PromptError(f"{name} is {value!r:.60}, which is not offered here. Leave it out.")
            elif value is not None or name not in _CHECKS:
                found[name] = value
        return values.checked("generation option", _CHECKS, found)

    def _check_together(self) -> None:
        """Raise PromptError for options that exclude each other."""
        beams, several = self.num_beams, self.num_return_sequences
        if several > 1 and beams == 1 and not self.do_sample:
            raise PromptError(
                f"num_return_sequences is {several}, but greedy answers would all be equal. Give do_sample=True or num_beams."
            )
        if 1 < beams < several:
            raise PromptError(f"num_return_sequences is {several}, more than num_beams, {beams}. Raise num_beams.")
        for name, off in _WITHOUT_BEAMS.items():
            if beams > 1 and (value := getattr(self, name)):
                raise PromptError(
                    f"num_beams is {beams} and {name} {value}, which exclude each other. Give num_beams=1, or {name}={off}."
                )
        both = [name for name in _STRUCTURES if getattr(self, name) is not None]
        if len(both) > 1:
            raise PromptError(f"{both[0]} and {both[1]} were both given. Give one of them.")
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
        """How many tokens may follow a prompt: what was asked for, or without that what is usual and fits.

        Raises:
            PromptTooLongError: the prompt has as many as prompt and answer together may have.
        """
        if self.max_new_tokens is not None:
            return self.max_new_tokens
        if self.max_length is None:
            return max(1, self.least_new_tokens(prompt_tokens), min(DEFAULT_MAX_NEW_TOKENS, max_positions - prompt_tokens))
        if prompt_tokens >= self.max_length:
            raise PromptTooLongError(
                f"The prompt has {prompt_tokens} tokens, and max_length, {self.max_length}, counts prompt and answer together. "
                "Give max_new_tokens, or a larger max_length."
            )
        return max(1, min(self.max_length, max_positions) - prompt_tokens)

    def least_new_tokens(self, prompt_tokens: int) -> int:
        """How many tokens follow a prompt before an end token may."""
        return max(0, self.min_length - prompt_tokens) if self.min_new_tokens is None else self.min_new_tokens

    @property
    def structure(self) -> str | None:
        """Which of the options says what the answer has to look like."""
        return next((name for name in _STRUCTURES if getattr(self, name) is not None), None)

    @property
    def banned(self) -> list[tuple[int, ...]]:
        """The bad words, but for end tokens, which the reference lets through."""
        return [word for word in self.bad_words_ids if len(word) > 1 or word[0] not in self.eos_token_id]


_CHECKS: dict[str, values.Check] = {
    "max_new_tokens": values.whole(1),
    "max_length": values.whole(1),
    "min_new_tokens": values.whole(0),
    "min_length": values.whole(0),
    "do_sample": values.flag,
    "temperature": values.number(1e-5, 1e5),
    "top_k": values.whole(0),
    "top_p": values.number(0, 1),
    "min_p": values.number(0, 1),
    "typical_p": values.number(1e-5, 1),
    "top_h": values.number(1e-5, 1),
    "epsilon_cutoff": values.number(0, 1),
    "eta_cutoff": values.number(0, 1),
    "repetition_penalty": values.number(1e-5, 1e5),
    "encoder_repetition_penalty": values.number(1e-5, 1e5),
    "no_repeat_ngram_size": values.whole(0),
    "bad_words_ids": values.words,
    "suppress_tokens": values.token_ids,
    "begin_suppress_tokens": values.token_ids,
    "sequence_bias": values.biases,
    "logit_bias": values.token_biases,
    "frequency_penalty": values.number(-2, 2),
    "presence_penalty": values.number(-2, 2),
    "eos_token_id": values.token_ids,
    "json_schema": grammar_source.json_schema,
    "regex": grammar_source.grammar,
    "grammar": grammar_source.grammar,
    "pad_token_id": values.whole(-1 << 31),
    "stop_strings": values.strings,
    "seed": values.whole(0),
    "num_return_sequences": values.whole(1, MAX_ROWS),
    "num_beams": values.whole(1, MAX_ROWS),
    "length_penalty": values.number(-9, 9),
    "early_stopping": values.early,
    "renormalize_logits": values.flag,
    "max_time": values.number(0, 1e9),
    "stopping_criteria": values.criteria,
    "prompt_lookup_num_tokens": values.whole(0),
    "logprobs": values.flag,
    "top_logprobs": values.whole(0),
    "echo": values.flag,
}
assert list(_CHECKS) == [field.name for field in fields(GenerationOptions)]

_NEUTRAL = {
    "use_cache": True, "return_dict_in_generate": False, "output_scores": False, "output_logits": False,
    "output_attentions": False, "output_hidden_states": False, "synced_gpus": False,
}  # fmt: skip
"""Options of the reference that are taken at the value at which they change nothing."""
_WITHOUT_BEAMS = {
    "do_sample": False, "prompt_lookup_num_tokens": 0, "logprobs": False, "max_time": None, "stopping_criteria": None,
}  # fmt: skip
_SAMPLING = ("temperature", "top_k", "top_p", "min_p", "typical_p", "top_h", "epsilon_cutoff", "eta_cutoff")
_STRUCTURES = ("json_schema", "regex", "grammar")
_BEAMS = ("length_penalty", "early_stopping", "renormalize_logits")


def _is_right(name: str, value: Any) -> bool:
    try:
        _CHECKS[name](name, value)
    except PromptError:
        return False
    return True
