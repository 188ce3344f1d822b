"""A call of ONNX Runtime."""

from __future__ import annotations

import signal
import threading
import time

import pytest
from idefics2_onnx.runtime.engine.call import run


def test_ctrl_c_ends_a_long_call_of_onnx_runtime():
    """Python hears of the signal only if the main thread does not sit in the call."""

    class Endless:
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
