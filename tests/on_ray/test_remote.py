"""Pictures at addresses that pyarrow reads."""

from __future__ import annotations

import pytest
from idefics2_onnx import ImageError

pytest.importorskip("pyarrow")


def test_a_picture_has_as_many_bytes_as_a_download(tmp_path, monkeypatch):
    from idefics2_onnx.on_ray import remote

    monkeypatch.setattr(remote, "MAX_DOWNLOAD", 99)
    for size in (99, 100):
        (tmp_path / f"{size}.png").write_bytes(bytes(size))
    assert len(remote.RemotePicture(f"file://{tmp_path}/99.png").read()) == 99
    with pytest.raises(ImageError, match=r"100.png has more than 99 bytes. Give a smaller image."):
        remote.RemotePicture(f"file://{tmp_path}/100.png").read()
