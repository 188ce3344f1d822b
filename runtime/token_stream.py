"""An answer as it grows, piece by piece of text."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from collections.abc import Generator as Pieces

from .answer import Generation
from .generation import Generator
from .processor import Idefics2Processor


class TokenStream:
    """An iterator of text pieces that join to the answer's text; closing it early frees what the answer took.

    It is a context manager, too: ``with model.stream(...) as pieces``.
    """

    def __init__(
        self, generator: Generator, processor: Idefics2Processor, on_end: Callable[[Generation], None] = lambda _: None
    ) -> None:
        """`on_end` is called once with the answer, whether it was finished or not."""
        self._generator, self._processor, self._on_end = generator, processor, on_end
        self._pieces = self._run()

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

    @property
    def result(self) -> Generation:
        """The answer so far."""
        return self._generator.result(0, self._processor)

    def _run(self) -> Pieces[str, None, None]:
        (answer,) = self._generator.answers
        begun = False
        try:
            for _ in self._generator.run():
                if piece := answer.take():
                    yield piece if begun else self._generator.echoed(0, self._processor) + piece
                    begun = True
        finally:
            self._on_end(self.result)
            self._generator.free()
