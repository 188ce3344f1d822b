"""What an adapter's adapter_config.json says, as far as merging needs it; what cannot be merged is refused by its name."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import CheckpointError
from ..models.json_file import read_json
from .adapter_patterns import by_pattern
from .checkpoint import ADAPTER_CONFIG

_PLAIN_STARTS = ("gaussian", "orthogonal", "eva", "mica")
"""init_lora_weights, besides true and false, that leave the base model's own weights alone."""
_OTHER_KINDS = (
    "alora_invocation_tokens", "arrow_config", "kasa_config", "layer_replication", "monteclora_config", "use_bdlora",
    "use_qalora",
)  # fmt: skip
"""Options of peft 0.21's LoraConfig that make the tuned model something else than a low-rank change of the base model."""
_RANK = _ALPHA = 8  # peft's defaults
_LARGEST_RANK, _LARGEST_ALPHA = 1 << 24, 1e30
"""No honest adapter comes near; what is larger is no float32."""


@dataclass(frozen=True)
class AdapterConfig:
    """The options of a LoRA adapter in PEFT's layout."""

    folder: Path
    raw: dict[str, Any]

    @classmethod
    def load(cls, folder: Path) -> AdapterConfig:
        """Raises CheckpointError, naming what, for an adapter that is not LoRA or cannot be merged."""
        if not (folder / ADAPTER_CONFIG).is_file():
            raise CheckpointError(f"{folder} has no {ADAPTER_CONFIG}. Give the folder of an adapter saved by peft.")
        raw = read_json(folder / ADAPTER_CONFIG)
        kind = raw.get("peft_type") if isinstance(raw, dict) else None
        if kind != "LORA":
            what = f"is a {kind!s:.60} adapter" if kind else "has no peft_type in its adapter_config.json"
            raise CheckpointError(
                f"{folder} {what}. Only LORA adapters can be merged here; if peft's merge_and_unload can merge it, export the "
                "model that this makes."
            )
        for option in _OTHER_KINDS:
            if raw.get(option):
                raise CheckpointError(
                    f"{folder} was trained with {option}, which is not plain LoRA. Merge it with peft first, if it can."
                )
        start = raw.get("init_lora_weights")
        if not (start is None or isinstance(start, bool) or str(start).lower() in _PLAIN_STARTS):
            raise CheckpointError(
                f"{folder} starts from {start!s:.60}, which changes the base model. Merge it with peft first, or save it with "
                "path_initial_model_for_weight_conversion, which makes a plain LoRA adapter of it."
            )
        return cls(folder, raw)

    def flag(self, option: str) -> bool:
        return bool(self.raw.get(option))

    def names(self, option: str) -> list[str]:
        """An option that is a list of strings, or nothing."""
        found = self.raw.get(option) or []
        if not isinstance(found, list) or not all(isinstance(name, str) for name in found):
            raise self.wrong(option, found)
        return found

    def ranks_and_scales(self, modules: Iterable[str]) -> dict[str, tuple[int, float]]:
        """Each module's rank and the factor of its product: alpha ÷ rank, or ÷ √rank for rank-stabilised adapters."""
        modules = list(modules)
        ranks, alphas = self._patterned("rank_pattern", modules), self._patterned("alpha_pattern", modules)
        found = {}
        for module in modules:
            rank, alpha = ranks.get(module, self.raw.get("r", _RANK)), alphas.get(module, self.raw.get("lora_alpha", _ALPHA))
            if isinstance(rank, bool) or not isinstance(rank, int) or not 1 <= rank <= _LARGEST_RANK:
                raise self.wrong("rank of " + module, rank)
            if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not abs(alpha) <= _LARGEST_ALPHA:
                raise self.wrong("alpha of " + module, alpha)
            found[module] = rank, alpha / (rank**0.5 if self.flag("use_rslora") else rank)
        return found

    def token_indices(self, modules: list[str], rows: int) -> list[int]:
        """The rows of an embedding table that were trained by themselves: `modules` is its name and those of what is tied to it,
        `rows` the table's number of them.
        """
        given = self.raw.get("trainable_token_indices")
        if isinstance(given, dict):
            given = next((own for module in modules for name, own in given.items() if module.endswith(name)), None)
        if not isinstance(given, list) or not all(isinstance(i, int) and 0 <= i < rows for i in given):
            raise self.wrong(f"trainable_token_indices of {modules[0]}, which has {rows} rows,", given)
        if len(set(given)) != len(given):
            raise self.wrong(f"trainable_token_indices of {modules[0]}, of which some are there twice,", given)
        return list(given)

    def wrong(self, option: str, value: Any) -> CheckpointError:
        return CheckpointError(
            f"{self.folder / ADAPTER_CONFIG} has the {option} {value!r:.80}, with which nothing can be merged. "
            "Save the adapter again."
        )

    def _patterned(self, option: str, modules: list[str]) -> dict[str, Any]:
        patterns = self.raw.get(option) or {}
        if not isinstance(patterns, dict):
            raise self.wrong(option, patterns)
        try:
            return by_pattern(patterns, modules)
        except ValueError as error:
            raise CheckpointError(
                f"{self.folder / ADAPTER_CONFIG} has a {option} that cannot be matched ({error}). Write the modules' names."
            ) from error
