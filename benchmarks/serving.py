"""What a server gives one client and several: tokens a second over HTTP, at a model's real widths.

    python benchmarks/serving.py FOLDER [--clients 1,8] [--rounds 5] [--json FILE]

`idefics2-onnx serve` runs in a process of its own; each client asks for a streamed answer of 48 tokens, again and again, and each
round measures all numbers of clients in turn. The ratios are of one round.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import httpx2

TOKENS, ANSWERS = 48, 2
SERVE = [
    sys.executable,
    "-m",
    "idefics2_onnx",
    "serve",
    "--port",
    "0",
    "--rows",
    "8",
    "--log-level",
    "warning",
    "-O",
    "eos_token_id=[]",
]


def ask(client: httpx2.Client, address: str) -> tuple[int, float]:
    """Tokens of one streamed answer, and seconds to the first of them, as the server counts: random weights may say nothing."""
    last: dict[str, Any] = {}
    body = {
        "messages": [{"role": "user", "content": "Tell me of all that you know, at length."}],
        "max_tokens": TOKENS,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    with client.stream("POST", f"{address}/v1/chat/completions", json=body, timeout=600) as response:
        assert response.status_code == 200, response.read()
        for line in response.iter_lines():
            if line.startswith("data: {"):
                last = json.loads(line.removeprefix("data: "))
    return last["usage"]["completion_tokens"], last["timings"]["first_token"]


def measure(address: str, clients: int) -> dict[str, float]:
    """All clients at once, each with some answers one after another."""
    found: list[tuple[int, float]] = []

    def work() -> None:
        with httpx2.Client() as client:
            found.extend([ask(client, address) for _ in range(ANSWERS)])

    threads = [threading.Thread(target=work) for _ in range(clients)]
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = time.perf_counter() - start
    return {
        "tokens per second": sum(tokens for tokens, _ in found) / seconds,
        "first token": statistics.median(first for _, first in found),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("--clients", default="1,8")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    results: dict[int, list[dict[str, float]]] = {int(count): [] for count in options.clients.split(",")}
    with subprocess.Popen([*SERVE, "-m", options.folder], stderr=subprocess.PIPE, text=True) as server:
        address = ""
        for line in server.stderr or ():
            address = (re.findall(r"Listening at (\S+)\.", line) or [address])[0]
            if "OpenAI's clients" in line:
                break
        try:
            measure(address, max(results))
            for _ in range(options.rounds):
                for clients, own in results.items():
                    own.append(measure(address, clients))
        finally:
            server.terminate()
    fewest = results[min(results)]
    for clients, own in results.items():
        speed = statistics.median(one["tokens per second"] for one in own)
        pairs = zip(own, fewest, strict=True)
        ratio = statistics.median(one["tokens per second"] / few["tokens per second"] for one, few in pairs)
        first = statistics.median(one["first token"] for one in own)
        print(f"{clients} clients: {speed:.1f} tokens a second, {ratio:.2f} times {min(results)}'s")
        print(f"    first token after {1000 * first:.0f} ms")
    if options.json:
        found: dict[str, Any] = {"folder": Path(options.folder).name, "clients": results}
        options.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
