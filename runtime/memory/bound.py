"""A graph's inputs and outputs, bound to memory that stays as long as they are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

if TYPE_CHECKING:
    import onnxruntime as ort


class Bound:
    """ONNX Runtime's binding of a session, and what is bound: ONNX Runtime before 1.30 forgets the latter, whose memory is freed.

    Attributes:
        binding: to run the session with.
    """

    def __init__(self, session: ort.InferenceSession) -> None:
        self.binding = session.io_binding()
        self._owned: dict[tuple[str, str], Any] = {}

    def input(self, name: str, value: ort.OrtValue) -> None:
        """Bind an input to a tensor."""
        self._owned["input", name] = value
        self.binding.bind_ortvalue_input(name, value)

    def array(self, name: str, array: NDArray[Any]) -> None:
        """Bind an input to an array in the host's memory, for a session that runs there."""
        self._owned["input", name] = array
        self.binding.bind_cpu_input(name, array)

    def output(self, name: str, value: ort.OrtValue) -> None:
        """Bind an output to a tensor, which is written in place."""
        self._owned["output", name] = value
        self.binding.bind_ortvalue_output(name, value)
