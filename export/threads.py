"""Which threads of this process have torch's own threads to help them."""

from __future__ import annotations

import sys
from threading import Thread

import torch


def help_this_thread_alone() -> None:
    """From now on torch computes with one thread in those that start later, as it does with all cores in this one.

    Work is cut into blocks that run side by side. If torch cut each of these again, there would be more threads than cores, and
    its own would sleep after every operator: packing a matrix took 2.4 times as long.
    """
    if sys.platform != "linux":  # elsewhere the number may be that of all threads
        return
    torch.get_num_threads()  # chosen here for this thread, and kept
    first = Thread(target=torch.set_num_threads, args=(1,))
    first.start()
    first.join()
