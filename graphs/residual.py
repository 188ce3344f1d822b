"""The sum that a model's layers add to."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from .operators import Operators


class Residual:
    """The sum [batch, seq, hidden] of what layers add. What came last waits for the norm that reads the sum: one operator of the
    fused flavour makes both.
    """

    def __init__(self, operators: Operators, x: Tensor) -> None:
        self._operators, self._x = operators, x
        self._added: Tensor | None = None

    @property
    def sum(self) -> Tensor:
        return self._x if self._added is None else self._x + self._added

    def add(self, x: Tensor) -> None:
        self._x, self._added = self.sum, x

    def rms_norm(self, norm: Any) -> Tensor:
        """The sum, normed."""
        weight, epsilon = norm.weight, norm.variance_epsilon
        if self._added is None:
            return self._operators.rms_norm(self._x, weight, epsilon)
        self._x, normed = self._operators.add_rms_norm(self._x, self._added, weight, epsilon)
        self._added = None
        return normed
