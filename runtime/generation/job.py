"""A request inside of a scheduler, from its submission to its outcome."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from ..engine.prefill import Prompts
from ..engine.timings import Timings
from ..inputs.request import Request
from ..memory.key_value_cache import KeyValueCache
from ..memory.prefix_cache import Key
from ..sample import Sample
from ..sampling.generation_options import GenerationOptions
from ..sampling.matcher import Matcher
from ..sampling.token_chooser import TokenChooser
from .answer import Answer
from .handle import OVER, Handle


@dataclass(eq=False)
class Job:
    """What the scheduler's threads know of a request."""

    handle: Handle
    read: Callable[[], Request] | None
    """None once that was done: images are large."""
    options: GenerationOptions
    chooser: TokenChooser
    timings: Timings = field(default_factory=Timings)
    submitted: float = field(default_factory=time.perf_counter)
    ready: bool = False
    """Whether it is prepared; where that failed, it is over."""
    key: Key | None = None
    prefix: tuple[KeyValueCache, int] | None = None
    """A cache that holds the prompt's beginning in its first row, and how many tokens of it."""
    sample: Sample | None = None
    limit: int = 0
    prompts: Prompts | None = None
    matchers: list[Matcher | None] = field(default_factory=list)
    """Where each of its answers begins in the grammar that it has to follow."""
    answers: list[Answer] = field(default_factory=list)
    first_token: float = 0.0

    @property
    def rows(self) -> int:
        return self.options.num_return_sequences

    @property
    def is_over(self) -> bool:
        """Whether its handle has an outcome already: it was cancelled, or could not be prepared."""
        return self.handle.state in OVER

    @property
    def tokens(self) -> int:
        """What each row may come to hold: the last token is not read any more."""
        assert self.sample is not None
        return self.sample.tokens + self.limit - 1

    @property
    def images(self) -> int:
        """Images that the answers' tokens see beside those."""
        assert self.sample is not None
        return 1 if self.sample.seen is None else int(self.sample.seen[-1].sum())
