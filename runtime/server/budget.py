"""How many bytes of requests a server holds, all together."""

from __future__ import annotations

from .problem import Problem


class Budget:
    """Of the event loop alone.

    Attributes:
        held: bytes now.
    """

    def __init__(self, most: int) -> None:
        self._most, self.held = most, 0

    def hold(self) -> Hold:
        """For one request."""
        return Hold(self)

    def take(self, count: int) -> None:
        """Count bytes in; Problem 429 where they are too many."""
        if self.held + count > self._most:
            raise Problem(
                429,
                f"The requests that are under way hold {self.held:,} bytes, of {self._most:,} that may be. Try again later.",
                "too_many_bytes",
                retry_after=1,
            )
        self.held += count


class Hold:
    """What one request holds, until it is released."""

    def __init__(self, budget: Budget) -> None:
        self._budget, self._count = budget, 0

    def take(self, count: int) -> None:
        self._budget.take(count)
        self._count += count

    def release(self) -> None:
        self._budget.held -= self._count
        self._count = 0
