"""What a graph is bound to stays in memory, whatever ONNX Runtime's binding holds on to: before 1.30 it held on to nothing."""

from __future__ import annotations

import weakref

import numpy as np
import onnxruntime as ort
import pytest
from idefics2_onnx.runtime.engine.argmax import Argmax, open_argmax
from idefics2_onnx.runtime.folder import DEMO
from idefics2_onnx.runtime.model import Idefics2
from parity import photo


@pytest.fixture
def forgetful(monkeypatch):
    """Bindings and tensors as they were before 1.30, and at every run the check that all bound memory is still there."""
    runs: list[int] = []

    def forget(method):
        def bind(self, name, value):
            self.memory = getattr(self, "memory", [])
            if isinstance(value, np.ndarray):
                self.memory.append(weakref.ref(value))
                self._iobinding.bind_input(name, value)
                return
            if value._numpy_obj is not None:
                value.array, value._numpy_obj = weakref.ref(value._numpy_obj), None
            self.memory.append(value.array)
            getattr(self._iobinding, method)(name, value._ortvalue)

        return bind

    original = ort.InferenceSession.run_with_iobinding

    def run(self, binding, options=None):
        assert all(reference() is not None for reference in binding.memory)
        runs.append(len(binding.memory))
        return original(self, binding, options)

    for method in ("bind_cpu_input", "bind_ortvalue_input", "bind_ortvalue_output"):
        monkeypatch.setattr(ort.IOBinding, method, forget(method))
    monkeypatch.setattr(ort.InferenceSession, "run_with_iobinding", run)
    return runs


def test_bound_memory_is_ours(forgetful):
    model = Idefics2.from_pretrained(DEMO, "cpu")
    answer = model.generate("What is in the picture?", photo("chelsea"), max_new_tokens=6)
    beams = model.generate("What is in the picture?", photo("chelsea"), max_new_tokens=4, num_beams=3)
    drafted = model.generate("Say it: one two one two one", max_new_tokens=6, prompt_lookup_num_tokens=3)
    assert len(forgetful) > 20
    assert len(answer.token_ids) == 6 or answer.finish_reason == "stop"
    assert beams.token_ids
    assert drafted.token_ids


def test_memory_of_the_choice_of_tokens_is_ours(forgetful):
    storage = Idefics2.from_pretrained(DEMO, "cpu").engine.storage
    logits = storage.tensor(np.float32([[[3, 1, 2]]]))
    choose = Argmax(open_argmax(["CPUExecutionProvider"]), logits, np.array([0]), storage)
    assert choose()[0] == [2]
    assert forgetful == [2]
