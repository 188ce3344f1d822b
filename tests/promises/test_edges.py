"""A sample of the fuzz of the command line's edges; `make test-edges` tries 2,000 cases."""

from __future__ import annotations

import random
import sys

import pytest
from edge_fuzz import arguments, chats, folders, options, pictures, prepared, run_here, sockets

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the fuzz needs Linux's devices and signals")


@pytest.mark.parametrize("kind", [arguments, options, pictures, folders, chats, sockets], ids=lambda kind: kind.__name__)
def test_hostile_calls_end_in_a_sentence(kind, checkpoint):
    for number in range(4):
        rng = random.Random(f"sample/{number}")
        with prepared(rng, checkpoint("plain")) as place:
            case = kind(rng, place)
            assert run_here(case, limited=False) == "", case
