"""An answer as it grows, piece by piece of text."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from collections.abc import Generator as Pieces

from .answer import Generation
from .generator import Generator

OnEnd = Callable[[Generation], None]


class TokenStream:
    """An iterator of text pieces that join to the answer's text; closing it early frees what the answer took.

    It is a context manager, too: ``with model.stream(...) as pieces``.
    """

    def __init__(self, generator: Generator, on_end: OnEnd = lambda _: None) -> None:
        """`on_end` is called with the answer, whether it was finished or not, if it was begun."""
        self._generator = generator
        self._pieces = _pieces(generator, on_end)

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        return next(self._pieces)

    def __enter__(self) -> TokenStream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop; `result` stays what it was."""
        self._pieces.close()
        self._generator.free()  # also if it was never begun

    @property
    def result(self) -> Generation:
        """The answer so far."""
        return self._generator.answers[0].result()


def _pieces(generator: Generator, on_end: OnEnd) -> Pieces[str, None, None]:
    """Not a method: it must not hold the stream, so that one that is dropped is freed at once."""
    (answer,) = generator.answers
    begun = False
    try:
        for _ in generator.steps():
            if piece := answer.take():
                yield piece if begun else answer.echoed() + piece
                begun = True
        if not begun and (echoed := answer.echoed()):
            yield echoed
    finally:
        on_end(answer.result())
        generator.free()
