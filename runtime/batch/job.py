"""Questions → answers, those that have a row already left out."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from typing import Any

from ..errors import ImageError, PromptError
from ..generation.loaded_model import LoadedModel
from ..generation.mapping import outcomes
from .answers import Answers
from .ids import Ids
from .question import Question
from .sources import Source


def unanswered(sources: Iterable[Source], ids: Ids) -> Iterator[Question]:
    """Each question whose id is not among these, once, also where two inputs name it; its id is then."""
    for source in sources:
        for question in source.questions():
            if question.id not in ids:
                ids.add(question.id)
                yield question


def is_its_own(error: Exception) -> bool:
    """Whether an error is its question's, which fails as often as it is asked, and not the device's or for want of memory."""
    return isinstance(error, ImageError | PromptError)


def answer(
    model: LoadedModel, questions: Iterable[Question], answers: Answers, *, ordered: bool, rows: int, options: dict[str, Any]
) -> Generator[int | Exception, None, None]:
    """Write a row for each question, and give how many pictures it has.

    An error that is not the question's own is given in its place: there is no row then, and the next run asks again.
    """
    with closing(outcomes(model, questions, Question.request, ordered=ordered, rows=rows, **options)) as found:
        for outcome in found:
            if outcome.error is None or is_its_own(outcome.error):
                answers.append(outcome)
                yield len(outcome.item.images)
            else:
                yield outcome.error
