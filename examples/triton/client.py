"""A picture and a question to Triton, and the answer as it grows: python examples/triton/client.py PICTURE QUESTION [ADDRESS]

Needs tritonclient[grpc], as .venv-triton has it.
"""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np
import tritonclient.grpc as triton

ADDRESS = "127.0.0.1:8001"


def stream(prompt: str, *pictures: Path, address: str = ADDRESS, **options: Any) -> Iterator[tuple[str, str]]:
    """Pieces of text, each with the reason for which the answer ended, which is empty until then.

    Closed early, it cancels the request.
    """
    given = {
        "prompt": [prompt.encode()],
        "images": [base64.b64encode(picture.read_bytes()) for picture in pictures],
        "options": [json.dumps(options).encode()],
    }
    inputs = []
    for name, values in given.items():
        if values:
            inputs.append(triton.InferInput(name, [len(values)], "BYTES"))
            inputs[-1].set_data_from_numpy(np.array(values, np.object_))
    came: SimpleQueue[tuple[Any, Any]] = SimpleQueue()
    client = triton.InferenceServerClient(address)
    client.start_stream(lambda result, error: came.put((result, error)))
    ended = False
    try:
        client.async_stream_infer("idefics2", inputs)
        while not ended:
            result, error = came.get()
            if error is not None:
                ended = True
                raise error
            piece, reason = (result.as_numpy(name)[0].decode() for name in ("text", "finish_reason"))
            ended = bool(reason)
            yield piece, reason
    finally:
        client.stop_stream(cancel_requests=not ended)
        client.close()


if __name__ == "__main__":
    for text, _ in stream(sys.argv[2], Path(sys.argv[1]), address=(sys.argv[3:] or [ADDRESS])[0]):
        print(text, end="", flush=True)
    print()
