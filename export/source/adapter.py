"""LoRA adapters in PEFT's layout, merged into a checkpoint's tensors as they are read, as peft 0.21 loads and merges them.

Every tensor of an adapter is used, or the adapter is refused by that tensor's name.
"""

from __future__ import annotations

import math
from dataclasses import replace

from ..errors import CheckpointError
from .adapter_config import AdapterConfig
from .adapter_tensors import AdapterTensors, Found
from .checkpoint import Checkpoint, Stored
from .merged import DoraColumns, DoraRows, Merged, RowsReplaced, Shifted

_PAIRS = (("A", "B"), ("embedding_A", "embedding_B"))


def merge_adapter(
    checkpoint: Checkpoint, names: dict[str, str], adapter: Checkpoint, tables: tuple[str, str]
) -> tuple[Checkpoint, dict[str, str]]:
    """The checkpoint with an adapter's changes, and the names of the model's parameters in it.

    `tables` have a row per token: embeddings, head. Tokens that were added in tuning make them longer. Raises CheckpointError,
    naming what, for an adapter that cannot be merged or does not fit the model.
    """
    merging = _Merging(checkpoint, names, adapter, tables)
    merging.replace_parameters()
    merging.change_modules()
    merged = replace(checkpoint, tensors=merging.tensors, source=f"{checkpoint.source}+{adapter.source}")
    return merged, merging.names


class _Merging:
    """An adapter's changes, one after another: new base tensors and rows first, then what is added to them."""

    def __init__(self, checkpoint: Checkpoint, names: dict[str, str], adapter: Checkpoint, tables: tuple[str, str]) -> None:
        self.tensors, self.names = dict(checkpoint.tensors), dict(names)
        self._tables = tables
        self._base, self._before, self._adapter = checkpoint.source, names, adapter
        self._config = AdapterConfig.load(adapter.folder)
        self._found = AdapterTensors.load(adapter.folder)
        wanted = tuple(f".{name}" for name in self._config.names("target_parameters"))
        self._by_name = {name.rpartition(".")[0]: name for name in names if f".{name}".endswith(wanted)} if wanted else {}
        """What target_parameters names, by the module that holds it."""

    def replace_parameters(self) -> None:
        saved = tuple(self._config.names("modules_to_save"))
        trained = {name for name in self.names if any(module.endswith(saved) for module in _modules(name))} if saved else set()
        for missing in sorted(trained - set(self._found.replaced))[:1]:
            raise self._refused(f"was trained with modules_to_save, but lacks {missing}")
        for parameter, found in self._found.replaced.items():
            current = self._current(parameter, found)
            shape = (found.tensor.shape[:1] if parameter in self._tables else current.shape[:1]) + current.shape[1:]
            self._check_shape(found, shape)
            self._change(parameter, found.tensor)
            if parameter not in trained or self._config.flag("ensure_weight_tying"):  # peft copies it into the tied tensor
                for other in set(self._tied(parameter)) - set(self._found.replaced):
                    self._change(other, found.tensor)

    def change_modules(self) -> None:
        targets = {module: self._target(module, parts) for module, parts in self._found.parts.items()}
        numbers = self._config.ranks_and_scales(self._by_name.get(module, module) for module in targets)
        rows = [module for module, parts in self._found.parts.items() if "trainable_tokens_delta" in parts]
        for module in rows:  # first: the head that is tied to such a table may have a pair of its own, on top of them
            self._replace_rows(module, targets[module], dict(self._found.parts[module]))
        for module in (module for module in targets if module not in rows):
            self._add_product(
                module, targets[module], dict(self._found.parts[module]), *numbers[self._by_name.get(module, module)]
            )

    def _add_product(self, module: str, target: str, parts: dict[str, Found], rank: int, scale: float) -> None:
        base, pair = self.tensors[self.names[target]], next((pair for pair in _PAIRS if pair[0] in parts), _PAIRS[0])
        down, up = (self._part(parts, part, module) for part in pair)
        table, ones = pair != _PAIRS[0], (1,) * (len(base.shape) - 2)
        if len(base.shape) not in ((2,) if table else (2, 4)):
            raise self._refused(f"holds {down.name}, but {target} is not a matrix, of shape {list(base.shape)}")
        rows, columns = base.shape[0], base.shape[1:]
        self._check_shape(down, (rank, *((rows,) if table else columns)))
        self._check_shape(up, (columns[0], rank) if table else (rows, rank, *ones))
        changed: Stored = Merged(base, down.tensor, up.tensor, scale, table)
        if self._config.flag("use_dora"):
            magnitude = self._part(parts, "magnitude_vector", module)
            outputs = columns[0] if table else rows
            if math.prod(magnitude.tensor.shape) != outputs or max(magnitude.tensor.shape, default=0) != outputs:
                self._check_shape(magnitude, (outputs,))
            changed = (DoraColumns if table else DoraRows)(changed, magnitude.tensor)
        self._change(target, changed)
        if self._config.flag("lora_bias"):
            self._add_bias(module, self._part(parts, "B.bias", module), scale)
        self._all_used(parts)

    def _add_bias(self, module: str, shift: Found, scale: float) -> None:
        parameter = f"{module}.bias"
        if parameter not in self.names:
            raise CheckpointError(
                f"{self._adapter.source} holds {shift.name}, but {module} has no bias to add it to. Train without lora_bias, or "
                "on modules that have a bias."
            )
        base = self._current(parameter, shift)
        self._check_shape(shift, base.shape)
        self._change(parameter, Shifted(base, shift.tensor, scale))

    def _replace_rows(self, module: str, target: str, parts: dict[str, Found]) -> None:
        values, base = self._part(parts, "trainable_tokens_delta", module), self.tensors[self.names[target]]
        tied = {name.removesuffix(".weight"): name for name in self._tied(target)}
        rows = self._config.token_indices([module, *tied], base.shape[0])
        self._check_shape(values, (len(rows), *base.shape[1:]))
        follow = [
            name
            for other, name in tied.items()
            if target == self._tables[0] and "trainable_tokens_delta" not in self._found.parts.get(other, {})
        ]
        for parameter in (target, *follow):  # peft gives the head that is tied to the table of tokens the same rows
            self._change(parameter, RowsReplaced(self.tensors[self.names[parameter]], tuple(rows), values.tensor))
        self._all_used(parts)

    def _target(self, module: str, parts: dict[str, Found]) -> str:
        """The parameter that a module's parts change."""
        target = self._by_name.get(module, f"{module}.weight")
        self._current(target, next(iter(parts.values())))
        return target

    def _tied(self, parameter: str) -> list[str]:
        """The other parameters that are the same tensor in the base model."""
        return [name for name, stored in self._before.items() if stored == self._before[parameter] and name != parameter]

    def _current(self, parameter: str, found: Found) -> Stored:
        if parameter not in self.names:
            raise CheckpointError(
                f"{self._adapter.source} changes {parameter} (by {found.name}), which {self._base} does not have. "
                "Name its base model, or merge it with peft first."
            )
        return self.tensors[self.names[parameter]]

    def _change(self, parameter: str, tensor: Stored) -> None:
        """Under a name of its own: a tied tensor stays what it is for the other parameter."""
        self.names[parameter] = f"{parameter} of {self._adapter.source}"
        self.tensors[self.names[parameter]] = tensor

    def _part(self, parts: dict[str, Found], kind: str, module: str) -> Found:
        if kind not in parts:
            raise self._refused(f"is not whole: {module} lacks lora_{kind}")
        return parts.pop(kind)

    def _all_used(self, parts: dict[str, Found]) -> None:
        for found in parts.values():
            raise self._refused(f"holds {found.name}, which the options in its adapter_config.json have no use for")

    def _check_shape(self, found: Found, expected: tuple[int, ...]) -> None:
        if tuple(found.tensor.shape) != tuple(expected):
            raise CheckpointError(
                f"{self._adapter.source}'s {found.name} has shape {list(found.tensor.shape)}, but the model and the adapter's "
                f"options make it {list(expected)}. Name the adapter's base model."
            )

    def _refused(self, what: str) -> CheckpointError:
        return CheckpointError(f"{self._adapter.source} {what}. Save the adapter again.")


def _modules(parameter: str) -> list[str]:
    """The modules that a parameter is part of, by their names."""
    parts = parameter.split(".")[:-1]
    return [".".join(parts[:count]) for count in range(1, len(parts) + 1)]
