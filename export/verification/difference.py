"""How far a graph's numbers lie from the truth, and how far the reference's own lie in the same type.

The truth is the reference computed in float64 on the weights that the folder stores. Nothing that computes in a narrower type
equals it; the reference in that type does not either. A graph passes where its error is at most MARGIN times the reference's, so
the bound follows the model: wide sums, deep stacks and loud channels raise both sides alike.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from ...graphs.contract import GraphName
from ..errors import ParityError

MARGIN = 4
"""Two right ways to round one computation differ in luck (tests/by_hand/random_configs.py prints by how much); a fault that is
worth a name is further off."""
_NAMED = 3
"""Faults that an error message names."""


@dataclass(frozen=True)
class Error:
    """The distance of an array from the truth."""

    relative: float
    """L2 norm of the difference over that of the truth."""
    largest: float
    """Largest difference, each channel measured by its own size: a loud one must not hide the others, nor be judged by them."""

    @classmethod
    def of(cls, found: NDArray[np.floating], truth: NDArray[np.float64], like: NDArray[np.float64] | None = None) -> Error:
        """Arrays of one shape, channels last; `like` has the channels' sizes, None: the truth itself."""
        difference = found.astype(np.float64) - truth
        measured = truth if like is None else like
        sizes = np.sqrt(np.square(measured.reshape(-1, truth.shape[-1])).mean(0))
        # A channel that happens to be near 0 here is not measured by that.
        sizes = np.maximum(sizes, np.median(sizes))
        norm, usual = float(np.linalg.norm(truth)), float(sizes.mean()) or 1.0
        relative = float(np.linalg.norm(difference)) / (norm or 1.0)
        np.abs(difference, out=difference)  # in place: these are the largest arrays of the comparison
        difference /= np.where(sizes > 0, sizes, usual)
        return cls(relative, float(difference.max(initial=0.0)))

    @classmethod
    def largest_of(cls, errors: Iterable[Error]) -> Error:
        """The largest of each measure among several computations of one thing."""
        pairs = np.array([(error.relative, error.largest) for error in errors])
        return cls(*pairs.max(0).tolist())


@dataclass(frozen=True)
class Difference:
    """One output of a graph, or of a part of it, beside the truth and the reference."""

    graph: GraphName
    what: str
    """Which output, of which input or layer."""
    type: str
    """What the reference computed with."""
    ours: Error
    reference: Error
    least: Error
    """What the errors may be in any case, for references that are lucky: a rounding for each operation in a row, and in the
    largest error, which few numbers make, those inside of sums, too."""
    finite: bool = True
    """Whether the truth is."""

    @property
    def allowed(self) -> Error:
        """The largest errors that pass."""
        return Error(
            max(MARGIN * self.reference.relative, self.least.relative), max(MARGIN * self.reference.largest, self.least.largest)
        )

    @property
    def overflows(self) -> bool:
        """Whether the type is too narrow for the model's numbers, though float64 is not."""
        return not np.isfinite([self.ours.relative, self.reference.relative]).all()

    @property
    def passed(self) -> bool:
        return self.excess <= 1

    @property
    def excess(self) -> float:
        """The larger error over what is allowed; infinite where the numbers are not finite."""
        if self.overflows:
            return float("inf")
        allowed = self.allowed
        return max(self.ours.relative / allowed.relative, self.ours.largest / allowed.largest)

    def __str__(self) -> str:
        where = f"{self.graph}.onnx ({self.what})"
        if self.overflows:
            return f"{where}: numbers past the largest that {self.type} holds"
        pairs = (
            ("relative error", self.ours.relative, self.reference.relative, self.allowed.relative),
            ("largest error by channel", self.ours.largest, self.reference.largest, self.allowed.largest),
        )
        name, ours, theirs, allowed = max(pairs, key=lambda pair: pair[1] / pair[3])
        return f"{where}: {name} {ours:.1e}, the reference's own in {self.type} {theirs:.1e}, allowed {allowed:.1e}"


@dataclass(frozen=True)
class Verification:
    """What was compared, and what could not be run here."""

    differences: list[Difference] = field(default_factory=list)
    equal: dict[str, int] = field(default_factory=dict)
    """What was compared exactly and found equal: weights, attributes; how many of each."""
    faults: list[str] = field(default_factory=list)
    """What was compared exactly and is not the checkpoint's, a clause each."""
    not_run: list[str] = field(default_factory=list)

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> Verification:
        """What `dataclasses.asdict` has made of one, from JSON."""
        differences = [
            Difference(**found | {name: Error(**found[name]) for name in ("ours", "reference", "least")})
            for found in content["differences"]
        ]
        return cls(differences, content["equal"], content["faults"], content["not_run"])

    def lines(self) -> list[str]:
        """The worst of each graph, what is equal, and what was not run."""
        by_graph = ([d for d in self.differences if d.graph == graph] for graph in get_args(GraphName))
        lines = [str(max(found, key=lambda d: d.excess)) for found in by_graph if found]
        if self.equal:
            lines.append(f"equal to the checkpoint's: {', '.join(f'{count:,} {what}' for what, count in self.equal.items())}")
        return [*lines, *self.faults, *(f"not run: {what}" for what in self.not_run)]

    def raise_past_floor(self) -> None:
        """Raise ParityError, which names the worst faults, unless all is equal or near enough."""
        failed = sorted((d for d in self.differences if not d.passed), key=lambda d: -d.excess)
        if any(d.overflows for d in failed) and not self.faults:
            first = next(d for d in self.differences if d.overflows)
            if not first.finite:
                raise ParityError(
                    f"The checkpoint itself computes numbers that are not finite, in float64, too: {first.graph} ({first.what}). "
                    "Its weights are damaged. Download it again."
                )
            raise ParityError(f"This model does not fit its type: {first}. Export it with --fp32, or with --bf16 for CUDA.")
        found = [*self.faults, *map(str, failed)]
        if found:
            more = f"; and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
            raise ParityError(
                f"The folder is not its checkpoint: {'; '.join(found[:_NAMED])}{more}. Export again; if it stays so, try the "
                "other --attention, and please report it with the checkpoint's name and config.json."
            )
