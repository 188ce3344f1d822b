"""Images on OpenVINO: the same features but for rounding, behind the same interface."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from idefics2_onnx.export import export_model
from idefics2_onnx.runtime.devices.machine import INT8_UNITS, instructions
from idefics2_onnx.runtime.errors import ProviderError
from idefics2_onnx.runtime.model import Idefics2
from parity import photos


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_features_are_those_of_the_cpu(precision, checkpoint, tmp_path):
    pytest.importorskip("openvino")
    folder = export_model(checkpoint("plain"), tmp_path / "model", precision, verify="never").folder
    if precision == "int8" and not INT8_UNITS & set(instructions()):
        pytest.skip("OpenVINO's products overflow here, which is refused")
    theirs, ours = (Idefics2.from_pretrained(folder, device) for device in ("cpu", "openvino"))
    expected, found = (np.concatenate(model.encode_images(photos())) for model in (theirs, ours))
    assert np.linalg.norm(found - expected) <= 0.03 * np.linalg.norm(expected)
    assert ours.providers == ["OpenVINO", "CPUExecutionProvider"]
    assert ours.generate("What?", photos()[0], max_new_tokens=3).token_ids


def test_int8_is_refused_where_its_products_overflow(exported, checkpoint, tmp_path, monkeypatch):
    """Seen on a processor with AVX2 alone: features 22 % off, without a word."""
    pytest.importorskip("openvino")
    folder = export_model(checkpoint("plain"), tmp_path / "model", "int8", verify="never").folder
    monkeypatch.setattr("idefics2_onnx.runtime.devices.sessions.instructions", lambda: ["AVX2"])
    with pytest.raises(ProviderError, match=r"without 8-bit units \(AVX2\) OpenVINO's sums of 8-bit products overflow"):
        Idefics2.from_pretrained(folder, "openvino")
    assert Idefics2.from_pretrained(exported("plain"), "openvino").providers[0] == "OpenVINO"


def test_without_openvino_there_is_one_sentence(exported, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(ProviderError, match=r"OpenVINO is not installed. Run: pip install '.*\[openvino\]'"):
        Idefics2.from_pretrained(exported("plain"), "openvino")
