"""Answers in a pipeline of Ray Data."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from ray.data import ActorPoolStrategy
from ray.util.annotations import RayDeprecationWarning

from ..runtime.batch.job import is_its_own
from ..runtime.batch.question import Question
from ..runtime.batch.row import COLUMNS, row_of
from ..runtime.batch.table import column_types
from ..runtime.errors import PromptError
from ..runtime.folder import ModelFolder
from ..runtime.generation.host_files import HostFiles
from ..runtime.generation.mapping import Outcome
from .opening import Opening
from .remote import picture
from .worker import Worker, block_rows, calls_at_once

if TYPE_CHECKING:
    from ray.data import Dataset

RESTARTS = 3
"""How often an actor that died is started again, and a block that it had is asked again."""
ADDED = tuple(name for name in COLUMNS if name not in ("id", "images", "prompt"))


def map_batches(
    dataset: Dataset,
    prompt: str | None = None,
    *,
    model: str | None = None,
    image_column: str | None = "image",
    prompt_column: str = "prompt",
    device: str = "auto",
    gpu_options: dict[str, Any] | None = None,
    actors: int = 1,
    cpus_per_actor: int = 1,
    rows: int = 16,
    **options: Any,
) -> Dataset:
    """The dataset with an answer about each row, in columns as `batch` has them: answer, prompt_tokens, … and error.

    What is wrong with a row's picture or prompt is its `error`. Anything else, as a device that fails, ends the execution.

    Args:
        prompt: of rows without a prompt of their own.
        model: a folder that lies at this path on every node, a hub id, or None for the demo model.
        image_column: pictures: paths on the nodes, URLs that pyarrow reads, files' bytes, arrays of pixels, or lists of these;
            None for questions without pictures.
        actors: how many models there are.
        cpus_per_actor: cores of each.
        rows: answers of each that grow at once.
        options: as `Scheduler.submit` takes them: max_new_tokens, json_schema, raw, ….

    Raises:
        PromptError, ModelFolderError, ProviderError: one of them is wrong. Of the nodes, when the dataset is executed.
    """
    folder = ModelFolder.open(model)
    shape = {name: options[name] for name in ("raw", "do_image_splitting") if name in options}
    chosen = {name: value for name, value in options.items() if name not in shape}
    HostFiles.read(folder.path, folder.manifest.model).options.replace(**chosen).check_one_answer()
    opening = Opening.of(folder, device, cpus_per_actor, rows, gpu_options)
    return answered(dataset, Adding, opening, actors, rows, options, prompt, image_column, prompt_column)


def answered(
    dataset: Dataset, worker: type[Worker], opening: Opening, actors: int, rows: int, options: dict[str, Any], *more: Any
) -> Dataset:
    """A dataset through so many workers, in blocks that cost seconds where one is lost."""
    calls = calls_at_once(rows)
    pool = ActorPoolStrategy(
        size=actors,
        max_tasks_in_flight_per_actor=calls,
        max_concurrent_calls_per_actor=calls,
        enable_true_multi_threading=True,  # they share a scheduler
    )
    with warnings.catch_warnings():  # Ray says that it will take away the limits, and has nothing in their place
        warnings.simplefilter("ignore", RayDeprecationWarning)
        return dataset.repartition(target_num_rows_per_block=block_rows(rows)).map_batches(
            worker,
            batch_size=None,
            batch_format="pyarrow",
            fn_constructor_args=(opening, rows, options, *more),
            compute=pool,
            max_restarts=RESTARTS,
            max_task_retries=RESTARTS,
            **opening.resources,
        )


class Adding(Worker):
    """Blocks of any table → the same with answers."""

    def __init__(
        self,
        opening: Opening,
        rows: int,
        options: dict[str, Any],
        prompt: str | None,
        image_column: str | None,
        prompt_column: str,
    ) -> None:
        super().__init__(opening, rows, options)
        self._prompt, self._image_column, self._prompt_column = prompt, image_column, prompt_column

    def __call__(self, block: pa.Table) -> pa.Table:
        found = [self._row(outcome) for outcome in self.outcomes(self._records(block), self._request)]
        types = column_types()
        for name in ADDED:
            block = block.append_column(name, pa.array([row[name] for row in found], types[name]))
        return block

    def _records(self, block: pa.Table) -> list[dict[str, Any]]:
        for name in filter(None, (self._image_column, self._prompt is None and self._prompt_column)):
            if name not in block.column_names:
                raise PromptError(f"The dataset has no column {name!r:.60} but {', '.join(block.column_names)}. Name another.")
        wanted = [name for name in (self._image_column, self._prompt_column) if name in block.column_names]
        records: list[dict[str, Any]] = block.select(wanted).to_pylist()
        return records

    def _request(self, record: dict[str, Any]) -> tuple[Any, Any]:
        prompt = record.get(self._prompt_column)
        value = record.get(self._image_column) if self._image_column else None
        images = value if isinstance(value, list) else [] if value is None else [value]
        return self._prompt if prompt is None else prompt, [picture(each) for each in images]

    def _row(self, outcome: Outcome[Any]) -> dict[str, Any]:
        if outcome.error is not None and not is_its_own(outcome.error):
            raise outcome.error
        return row_of(Outcome(outcome.index, Question(""), outcome.answer, outcome.error), {})
