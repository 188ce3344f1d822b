"""Files read and written past the page cache, and through it where that is refused."""

from __future__ import annotations

import errno
import os
from contextlib import suppress

import numpy as np
import pytest
from idefics2_onnx.export import direct_io
from idefics2_onnx.export.direct_io import DirectWriter, read_direct

RANDOM = np.random.default_rng(0).integers(0, 256, 20_000_000, np.uint8)


def refuses_to_open(name, flags, *mode):
    if flags & direct_io._DIRECT:
        raise OSError(errno.EINVAL, "no")
    return OPEN(name, flags, *mode)


OPEN = os.open


@pytest.fixture(params=["direct", "unknown", "refused"])
def system(request, monkeypatch):
    """With direct access, without (other systems), and with a file system that refuses it."""
    if request.param == "unknown":
        monkeypatch.setattr(direct_io, "_DIRECT", 0)
        monkeypatch.setattr(read_direct, "__defaults__", (0,))
    elif request.param == "refused":
        monkeypatch.setattr(direct_io.os, "open", refuses_to_open)


@pytest.mark.parametrize("sizes", [[], [0], [1], [4096], [5000, 3], [8 << 20], [1 << 16, 9_000_001, 7, 2]])
@pytest.mark.parametrize("kept", [0, 1, 4096, 100_001])
def test_written_bytes_are_read_again(tmp_path, system, sizes, kept):
    path = tmp_path / "data"
    path.write_bytes(RANDOM[: kept + 12345].tobytes())
    with DirectWriter(path, kept) as file:
        for size in sizes:
            file.write(RANDOM[file.position : file.position + size])
        assert file.position == kept + sum(sizes)
    length = kept + sum(sizes)
    assert path.read_bytes() == RANDOM[:length].tobytes()
    for start in {0, length // 3, length - length // 7}:
        assert np.array_equal(read_direct(path, start, length), RANDOM[start:length])
        assert np.array_equal(read_direct(path, start, 10), RANDOM[start : min(length, start + 10)])


def test_nothing_goes_through_the_cache_where_it_need_not(tmp_path, monkeypatch):
    """Memory, places and lengths are what disks ask for; else all of it would be done again, unseen and slowly."""
    path = tmp_path / "data"
    path.touch()
    try:
        os.close(os.open(path, os.O_RDWR | getattr(os, "O_DIRECT", 0)))
    except OSError:
        pytest.skip("This file system has no direct access.")
    opened = []
    monkeypatch.setattr(direct_io.os, "open", lambda name, flags, *mode: opened.append(flags) or OPEN(name, flags, *mode))
    for kept in (0, 4096 + 5):
        path.write_bytes(RANDOM[:kept].tobytes())
        with DirectWriter(path, kept) as file:
            for size in (3, 9_000_001, 5000):
                file.write(RANDOM[file.position : file.position + size])
        assert np.array_equal(read_direct(path, 4097, 10_000), RANDOM[4097:14097])
    each = 3  # what a writer goes on from, the writing, the reading
    assert [flags & direct_io._DIRECT for flags in opened] == [direct_io._DIRECT] * 2 * each


def test_file_system_that_refuses_when_it_writes(tmp_path, monkeypatch):
    def refuses(name, flags, *mode):
        file = OPEN(name, flags & ~direct_io._DIRECT, *mode)
        (refused.add if flags & direct_io._DIRECT else refused.discard)(file)
        return file

    class File(direct_io.io.FileIO):
        def write(self, data):
            if self.fileno() in refused and self.tell() > 0:
                raise OSError(errno.EINVAL, "no")
            return super().write(data[: 3 << 20])  # in part, as disks may

    refused = set()
    monkeypatch.setattr(direct_io.os, "open", refuses)
    monkeypatch.setattr(direct_io.io, "FileIO", File)
    path = tmp_path / "data"
    path.touch()
    with DirectWriter(path, 0) as file:
        file.write(RANDOM)
    assert path.read_bytes() == RANDOM.tobytes()


def test_failure_keeps_what_is_on_the_disk(tmp_path):
    path = tmp_path / "data"
    path.touch()
    with suppress(KeyboardInterrupt), DirectWriter(path, 0) as file:
        file.write(RANDOM)
        raise KeyboardInterrupt
    found = path.read_bytes()
    assert 0 < len(found) <= len(RANDOM)
    assert found == RANDOM[: len(found)].tobytes()
