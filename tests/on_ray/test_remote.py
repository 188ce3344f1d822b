"""Pictures at addresses that pyarrow reads."""

from __future__ import annotations

import os

import pytest
from idefics2_onnx import ImageError
from idefics2_onnx.runtime.batch.columns import Columns
from idefics2_onnx.runtime.errors import BatchError

pytest.importorskip("pyarrow")


def test_a_picture_has_as_many_bytes_as_a_download(tmp_path, monkeypatch):
    from idefics2_onnx.on_ray import remote

    monkeypatch.setattr(remote, "MAX_DOWNLOAD", 99)
    for size in (99, 100):
        (tmp_path / f"{size}.png").write_bytes(bytes(size))
    assert len(remote.RemotePicture(f"file://{tmp_path}/99.png").read()) == 99
    with pytest.raises(ImageError, match=r"100.png has more than 99 bytes. Give a smaller image."):
        remote.RemotePicture(f"file://{tmp_path}/100.png").read()


NAMES = ["a b%20c?#.png", "x" * 250 + ".png", "\u00e9\u65e5\u672c.png"]
"""With signs that have a meaning in addresses, as long as a name may be, and in other letters."""


@pytest.mark.parametrize("address", ["file://{}", "file://{}/", "file://{}/*.png", "fsspec+local://{}"])
def test_names_are_taken_as_they_are(tmp_path, address):
    from idefics2_onnx.on_ray.remote import remote_source

    for name in NAMES:
        (tmp_path / name).write_bytes(name.encode())
    (tmp_path / "loop").symlink_to(tmp_path)  # as on the disk, linked folders are not gone into
    source = remote_source(address.format(tmp_path), Columns("image", "prompt", "What?"))
    assert source.count() == 3
    found = {question.id.rpartition("/")[2]: question.images[0].read() for question in source.questions()}
    assert found == {name: name.encode() for name in NAMES}


def test_a_tables_names_are_taken_as_they_are(tmp_path):
    import json

    from idefics2_onnx.on_ray.remote import remote_source

    for name in NAMES:
        (tmp_path / name).write_bytes(name.encode())
    (tmp_path / "table.jsonl").write_text("".join(json.dumps({"image": name}) + "\n" for name in NAMES), "utf-8")
    source = remote_source(f"file://{tmp_path}/table.jsonl", Columns("image", "prompt", "What?"))
    assert [question.images[0].read() for question in source.questions()] == [name.encode() for name in NAMES]


def test_what_is_wrong_names_the_address(tmp_path):
    from idefics2_onnx.on_ray.remote import remote_source

    (tmp_path / "cut.parquet").write_bytes(b"PAR1 and no more")
    columns = Columns("image", "prompt", "What?")
    with pytest.raises(BatchError, match=f"^file://{tmp_path}/cut.parquet cannot be read as Parquet"):
        remote_source(f"file://{tmp_path}/cut.parquet", columns).count()
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / os.fsdecode(b"\xff.png")).touch()
    with pytest.raises(BatchError, match="cannot be listed .*utf-8"):
        remote_source(f"file://{tmp_path}/photos", columns).count()
