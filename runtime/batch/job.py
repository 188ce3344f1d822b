"""Questions → answers, those that have a row already left out."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from typing import Any

from ..errors import ImageError, PromptError
from ..generation.loaded_model import LoadedModel
from ..generation.mapping import outcomes
from .answers import Answers
from .question import Question
from .sources import Source


def unanswered(sources: Iterable[Source], answers: Answers) -> Iterator[Question]:
    """Each question once, also where two inputs name it."""
    for source in sources:
        for question in source.questions():
            if question.id not in answers.ids:
                answers.ids.add(question.id)
                yield question


def answer(
    model: LoadedModel, questions: Iterable[Question], answers: Answers, *, ordered: bool, rows: int, options: dict[str, Any]
) -> Generator[Question | Exception, None, None]:
    """Write a row for each question, and give the question.

    An error that is not the question's own, of the device or for want of memory, is given in its place: there is no row then, and
    the next run asks again.
    """
    with closing(outcomes(model, questions, Question.request, ordered=ordered, rows=rows, **options)) as found:
        for outcome in found:
            if outcome.error is None or isinstance(outcome.error, ImageError | PromptError):
                answers.append(outcome)
                yield outcome.item
            else:
                yield outcome.error
