"""Who is told how an export goes."""


class Listener:
    """Hears how an export goes; this one does nothing."""

    def say(self, line: str) -> None:
        """A line for the user."""

    def start(self, step: str, total: int) -> None:
        """A step of `total` bytes begins, read as fp32 where nothing is written."""

    def advance(self, done: int) -> None:
        """So many more bytes of the step are done."""
