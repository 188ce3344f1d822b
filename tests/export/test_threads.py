"""torch's own threads, in a process whose threads nobody else needs."""

from __future__ import annotations

import subprocess
import sys

import pytest

COUNTS = """
from threading import Thread
import torch
from idefics2_onnx.export.threads import help_this_thread_alone
torch.set_num_threads(3)
help_this_thread_alone()
later = Thread(target=lambda: print(torch.get_num_threads()))
later.start()
later.join()
print(torch.get_num_threads())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="is left as it is elsewhere")
def test_later_threads_have_one_each_and_this_one_keeps_its_own():
    done = subprocess.run([sys.executable, "-c", COUNTS], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1", "3"]
