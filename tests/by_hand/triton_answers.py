"""Triton with the package's scheduler: 40 answers equal `generate`'s, 8 at a time; a request that is cancelled frees its row.

    python tests/by_hand/triton_answers.py

Starts examples/triton/start.py at free ports of this machine, and ends it. Runs itself again in Triton's environment, for its client.
"""

from __future__ import annotations

import json
import os
import random
import socket
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from urllib.request import urlopen

ROOT = Path(__file__).resolve().parents[2]
PLACE = Path(os.environ.get("TRITON_VENV", ROOT / ".venv-triton"))
EXAMPLES = ROOT / "examples"
LONG = {"max_new_tokens": 1800, "logit_bias": {"2": -100, "437": -100}}
"""Without an end token: more than a second, in one of eight rows."""
WRONG = ({"speed": 1}, {"image_features": [1]}, {"num_return_sequences": 3}, {"max_new_tokens": -1})


def requests() -> list[tuple[str, list[str], dict]]:
    """Questions of all kinds, some of them sampled."""
    chance = random.Random(0)
    known = [
        ("What is in the picture?", ["shapes.png"]),
        ("What does the sign say?", ["sign.png"]),
        ("Give the receipt as JSON.", ["receipt.png"]),
        ("What changed?", ["before.png", "after.png"]),
        ("Hello?", []),
    ]
    sampled = {"do_sample": True, "temperature": 1.3}
    return [
        (*chance.choice(known), {"max_new_tokens": chance.randrange(1, 60)} | (sampled | {"seed": i} if i % 3 == 0 else {}))
        for i in range(40)
    ]


def in_tritons_environment(port: str) -> None:
    """What its client, which wants the older NumPy, has to do: answers on stdout as JSON; then cancel and ask again."""
    sys.path.insert(0, str(EXAMPLES / "triton"))
    from client import stream

    address = f"127.0.0.1:{port}"

    def whole(one: tuple[str, list[str], dict]) -> list[str]:
        prompt, pictures, options = one
        pieces = list(stream(prompt, *(EXAMPLES / name for name in pictures), address=address, **options))
        return ["".join(text for text, _ in pieces), pieces[-1][1]]

    start = time.perf_counter()
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(whole, requests()))
    seconds = time.perf_counter() - start
    growing = [stream("Hello?", address=address, **LONG) for _ in range(8)]  # as many as there are rows
    for one in growing:
        next(one)
    begun = time.perf_counter()
    for one in growing:
        one.close()
    again = whole(("Hello?", [], {"max_new_tokens": 4}))
    free = time.perf_counter() - begun

    def problem(options: dict) -> str:
        try:
            whole(("Hello?", [], options))
        except Exception as error:
            return str(error)
        return ""

    wrong = [problem(options) for options in WRONG]
    print(json.dumps({"answers": answers, "seconds": seconds, "again": again, "free": free, "wrong": wrong}))


def main() -> None:
    from idefics2_onnx import Idefics2

    sys.path.insert(0, str(EXAMPLES / "triton"))
    from start import environment

    python = environment(PLACE)
    with Idefics2.from_pretrained(spinning=False) as model:
        expected = []
        for prompt, pictures, options in requests():
            answer = model.generate(prompt, [EXAMPLES / name for name in pictures], **options)
            expected.append([answer.text, answer.finish_reason])
        start = time.perf_counter()
        model.generate("Hello?", **LONG)
        long = time.perf_counter() - start
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(3)]
    http, grpc, metrics = (str(one.getsockname()[1]) for one in sockets)
    for one in sockets:
        one.close()
    ports = ["--http-port", http, "--grpc-port", grpc, "--metrics-port", metrics]
    with tempfile.TemporaryFile() as log:
        triton = subprocess.Popen([sys.executable, str(EXAMPLES / "triton" / "start.py"), "--", *ports], stdout=log, stderr=log)
        try:
            for _ in range(600):
                try:
                    with closing(urlopen(f"http://127.0.0.1:{http}/v2/health/ready")):
                        break
                except OSError:
                    assert triton.poll() is None, "Triton ended"
                    time.sleep(0.1)
            run = subprocess.run([python, __file__, "--client", grpc], stdout=subprocess.PIPE, text=True, timeout=300, check=True)
        finally:
            triton.terminate()
            assert triton.wait(60) == 0
    found = json.loads(run.stdout)
    differ = [index for index, (one, other) in enumerate(zip(found["answers"], expected, strict=True)) if one != other]
    assert not differ, differ
    print(f"40 answers, 8 at a time, are those of generate: {found['seconds']:.1f} s")
    assert found["again"][1]
    assert found["free"] < long, (found["free"], long)
    print(f"8 of 8 rows were busy for at least {long:.2f} s; cancelled, the next request was whole after {found['free']:.2f} s")
    for options, said in zip(WRONG, found["wrong"], strict=True):
        assert next(iter(options)) in said, (options, said)
        print(f"a wrong option: {said:.120}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--client"]:
        in_tritons_environment(sys.argv[2])
    else:
        main()
