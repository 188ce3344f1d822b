"""A call of ONNX Runtime."""

from __future__ import annotations

import signal
import threading
import time

import numpy as np
import onnxruntime as ort
import pytest
from idefics2_onnx.runtime.devices.device import CPU, CUDA, TENSORRT
from idefics2_onnx.runtime.engine.call import NOT_RECORDED, run
from idefics2_onnx.runtime.engine.interruption import Interruption
from idefics2_onnx.runtime.errors import Cancelled, ProviderError
from onnx import TensorProto, helper, numpy_helper


def test_ctrl_c_ends_a_long_call_of_onnx_runtime():
    """Python hears of the signal only if the main thread does not sit in the call."""

    class Endless:
        def get_providers(self):
            return [CPU]

        def run_with_iobinding(self, binding, options):
            assert threading.current_thread() is not threading.main_thread()
            self.options = options
            # To this thread, as the system may: the main one sleeps on.
            signal.pthread_kill(threading.get_ident(), signal.SIGINT)
            for _ in range(6000):  # a call that is not ended fails the test, and does not hang it
                if options.terminate:
                    return
                time.sleep(0.01)

    session = Endless()
    with pytest.raises(KeyboardInterrupt):
        run("vision", session, None)
    assert session.options.terminate


@pytest.mark.parametrize("raises", [True, False], ids=["ONNX Runtime", "OpenVINO"])
def test_another_thread_ends_a_long_call(raises):
    """What it leaves behind is nobody's result, whether the library says so or not."""
    interruption, begun = Interruption(), threading.Event()

    class Endless:
        runs = 0

        def get_providers(self):
            return [CPU]

        def run_with_iobinding(self, binding, options):
            self.runs += 1
            begun.set()
            for _ in range(6000):
                if options.terminate:
                    break
                time.sleep(0.01)
            else:
                pytest.fail("It was not ended.")
            if raises:
                raise RuntimeError("Exiting due to terminate flag being set to true.")

    session = Endless()
    other = threading.Thread(target=lambda: (begun.wait(60), interruption.come()))
    other.start()
    with pytest.raises(Cancelled, match="was cancelled while its images were being encoded"):
        run("vision", session, None, interruption=interruption)
    other.join()
    with pytest.raises(Cancelled):  # and what comes later
        run("vision", session, None, interruption=interruption)
    assert session.runs == 2


def test_onnx_runtime_ends_at_the_next_operator():
    """A loop of 10^12 turns: hours."""
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["still"]), helper.make_node("Add", ["x", "one"], ["y"])],
        "body",
        [helper.make_tensor_value_info(name, kind, shape) for name, kind, shape in (
            ("turn", TensorProto.INT64, []), ("go", TensorProto.BOOL, []), ("x", TensorProto.FLOAT, [1]))],
        [helper.make_tensor_value_info("still", TensorProto.BOOL, []), helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])],
    )  # fmt: skip
    turns, go = (numpy_helper.from_array(np.array(value), name) for value, name in ((10**12, "turns"), (True, "always")))
    one = numpy_helper.from_array(np.ones(1, np.float32), "one")
    graph = helper.make_graph(
        [helper.make_node("Loop", ["turns", "always", "start"], ["end"], body=body)],
        "endless",
        [helper.make_tensor_value_info("start", TensorProto.FLOAT, [1])],
        [helper.make_tensor_value_info("end", TensorProto.FLOAT, [1])],
        [turns, go, one],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    binding = session.io_binding()
    binding.bind_cpu_input("start", np.zeros(1, np.float32))
    binding.bind_output("end")
    interruption = Interruption()
    threading.Timer(0.2, interruption.come).start()
    with pytest.raises(Cancelled) as caught:
        run("vision", session, binding, interruption=interruption)
    assert "terminate" in str(caught.value.__cause__)


class Counting:
    """A session that remembers how many threads were in it at once, and fails as it is told."""

    def __init__(self, provider, failures=()):
        self.provider, self.failures, self.inside, self.most, self.runs = provider, list(failures), 0, 0, 0

    def get_providers(self):
        return [self.provider]

    def run_with_iobinding(self, binding, options):
        self.inside, self.runs = self.inside + 1, self.runs + 1
        self.most = max(self.most, self.inside)
        time.sleep(0.02)
        self.inside -= 1
        if self.failures:
            raise RuntimeError(self.failures.pop())


@pytest.mark.parametrize(("provider", "most"), [(CUDA, 1), (TENSORRT, 1), (CPU, 2)])
def test_threads_take_turns_on_a_gpu(provider, most):
    session = Counting(provider)
    threads = [threading.Thread(target=run, args=("vision", session, None)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert session.most == most


SPOILT = "operation failed due to a previous error during capture != cudaSuccess"


def test_a_run_that_another_thread_spoilt_is_made_once_more():
    session = Counting(CUDA, [SPOILT])
    run("vision", session, None)
    assert session.runs == 2
    for failures, recording, runs in (
        ([SPOILT] * 2, NOT_RECORDED, 2),
        (["Conv is not implemented"], NOT_RECORDED, 1),
        ([SPOILT], 1, 1),
    ):
        session = Counting(CUDA, failures)
        with pytest.raises(ProviderError, match="could not run vision.onnx"):
            run("vision", session, None, recording=recording)
        assert session.runs == runs
