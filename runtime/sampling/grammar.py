"""JSON schemas, regular expressions and Lark grammars, compiled by llguidance for one tokenizer."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import OrderedDict
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np
from tokenizers import Tokenizer

from ..errors import PromptError, first_line
from ..outside.requirement import explain
from . import grammar_trial
from .generation_options import GenerationOptions
from .matcher import Matcher

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer
    from llguidance._lib import JsonCompileOptions

KEPT = 8
"""Grammars that stay compiled, the latest ones."""
_LIMITS: dict[str, Any] = {
    "step_lexer_fuel": 20_000,
    "step_max_items": 20_000,
    "max_lexer_states": 20_000,
    "verbose_errors": False,
}
"""llguidance's own, lower: a step ends in milliseconds, and a grammar's tables at about 40 MB (1 to 2 kB a state, it says)."""
_JSON: JsonCompileOptions = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
"""As models write JSON: of the demo's 60 receipts, 6 were read wrongly without the spaces, and with any number of them one never
ended."""
_START = {"lark_grammar": "start: @answer"}
_START_WITH_SPACE = {"lark_grammar": "start: /[ ]?/ @answer"}


class Grammars:
    """The grammars of one loaded tokenizer. Several threads may ask for them."""

    def __init__(self, tokenizer: Tokenizer, vocab_size: int, ends: tuple[int, ...]) -> None:
        """`ends` are the model's own end tokens; a call may have others."""
        self._tokenizer, self._vocab_size, self._ends = tokenizer, vocab_size, [i for i in ends if i < vocab_size]
        self._compiled: OrderedDict[str, LLMatcher] = OrderedDict()
        self._words: LLTokenizer | None = None
        self._lock = Lock()

    def matcher(self, options: GenerationOptions) -> Matcher | None:
        """The beginning of an answer by one call's options, its first mask already begun; None if they ask for no grammar.

        Raises:
            PromptError: the grammar is wrong, allows no answer, or is too large; llguidance is not installed.
        """
        if options.structure is None:
            return None
        with self._lock:
            state = self._state(options.structure, getattr(options, options.structure))
        ends = [i for i in options.eos_token_id if i < self._vocab_size]
        return Matcher(state, np.array(ends, np.int64), np.array(self._ends, np.int64), self._vocab_size)

    def _state(self, kind: str, text: str) -> LLMatcher:
        """A copy of the compiled grammar's first state."""
        try:
            from llguidance import LLMatcher, LLParserLimits, LLTokenizer
        except ImportError as error:
            raise PromptError(explain(error, "structured") or first_line(error)) from error
        if self._words is None:  # takes a second for 32,000 words
            size = max(self._vocab_size, self._tokenizer.get_vocab_size())
            self._words = LLTokenizer(self._tokenizer.to_str(), n_vocab=size, eos_token=self._ends or None)
        grammar = json.dumps({"grammars": [self._start(self._words), _described(LLMatcher, kind, text) | {"name": "answer"}]})
        if grammar not in self._compiled:
            _try_out(kind, grammar)
            made = LLMatcher(self._words, grammar, log_level=0, limits=LLParserLimits(**_LIMITS))
            if made.is_error():
                raise _refusal(kind, made.get_error())
            self._compiled[grammar] = made
            if len(self._compiled) > KEPT:
                self._compiled.popitem(last=False)
        self._compiled.move_to_end(grammar)
        return self._compiled[grammar].deep_copy()

    def _start(self, words: LLTokenizer) -> dict[str, str]:
        """With a space in front where the tokenizer writes one that its text does not have."""
        ids = self._tokenizer.encode(" a", add_special_tokens=False).ids
        return _START_WITH_SPACE if words.decode_str(ids) == " " + self._tokenizer.decode(ids) else _START


def _described(compiler: type[LLMatcher], kind: str, text: str) -> dict[str, Any]:
    """One of llguidance's grammars, not compiled yet."""
    if kind == "grammar":
        return {"lark_grammar": text}
    try:
        made = compiler.grammar_from_regex(text) if kind == "regex" else compiler.grammar_from_json_schema(text, overrides=_JSON)
    except ValueError as error:  # of a schema that is nested too deeply
        raise _refusal(kind, str(error)) from error
    return dict(json.loads(made)["grammars"][0])


def _try_out(kind: str, grammar: str) -> None:
    """Raise PromptError if a grammar is wrong, or takes longer to compile than one that a person wrote."""
    if getattr(sys, "frozen", False) or "python" not in Path(sys.executable or "").name.lower():
        return  # an app's own executable: it could only be started as that app
    command = [sys.executable, "-P", grammar_trial.__file__, json.dumps(_LIMITS)]
    try:
        trial = subprocess.run(command, input=grammar.encode(), capture_output=True, timeout=60, check=False)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired) as error:
        raise PromptError(
            f"The {kind} could not be tried out ({first_line(error)}). Try again on a machine that is less busy."
        ) from error
    if trial.returncode == grammar_trial.REFUSED:
        raise _refusal(kind, trial.stdout.decode("utf-8", "replace"))
    if trial.returncode:
        raise PromptError(
            f"The {kind} takes more than {grammar_trial.SECONDS:g} s to compile. Ask for something simpler: fewer keys, "
            "shorter repeats, no large multipleOf."
        )


def _refusal(kind: str, reason: str) -> PromptError:
    said = " ".join(line.strip() for line in reason.partition("<non-verbose/>")[0].splitlines())
    return PromptError(f"The {kind} cannot be followed ({first_line(ValueError(said))}). Change what this names.")
