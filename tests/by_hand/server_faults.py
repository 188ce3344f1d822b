"""Faults at random moments, each many times: only stated statuses, no row that is not given back, and the next request is answered.

PYTHONPATH=tests/support python tests/by_hand/server_faults.py [--each 30]

Clients that vanish, bodies that stop half way, readers that take nothing in, bytes that are no HTTP, a decoder that fails, and SIGTERM
while answers run. Prints what clients met.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable

import httpx2
from idefics2_onnx import Idefics2, ModelFolderError
from idefics2_onnx.runtime.engine.decode_step import DecodeStep
from live_server import Live, live, question, until

STATED = {"200", "400", "401", "404", "408", "413", "415", "429", "500", "503", "504"}
BODY = {"messages": question("What is in the picture?", "shapes.png"), "max_tokens": 60, "temperature": 1.5, "stream": True}


class Faults:
    """One server, and what is done to it."""

    def __init__(self, server: Live, chance: random.Random) -> None:
        self._server, self._chance = server, chance
        self.met: Counter[str] = Counter()

    def vanish(self) -> None:
        with self._connected() as connection:
            connection.sendall(self._request())
            time.sleep(self._chance.uniform(0, 0.15))

    def stop_half_way(self) -> None:
        whole = self._request()
        with self._connected() as connection:
            connection.sendall(whole[: self._chance.randrange(1, len(whole))])
            time.sleep(self._chance.choice([0, 0.05, 0.5]))  # the last is longer than a body may take
            self._note(connection)

    def read_nothing(self) -> None:
        with self._connected() as connection:
            connection.sendall(self._request(max_tokens=1500, n=4, logit_bias={"2": -100, "437": -100}))
            time.sleep(self._chance.uniform(0, 1.5))

    def send_junk(self) -> None:
        with self._connected() as connection:
            connection.sendall(self._chance.randbytes(self._chance.randrange(1, 3000)) + b"\r\n\r\n")
            time.sleep(0.02)
            self._note(connection)

    def break_decoder(self) -> None:
        step, left = DecodeStep.__call__, [self._chance.randrange(30)]

        def failing(self: DecodeStep, tokens: list[int]) -> object:
            left[0] -= 1
            if left[0] == 0:
                raise ModelFolderError("made up")
            return step(self, tokens)

        DecodeStep.__call__ = failing  # type: ignore[method-assign, assignment]
        try:
            asking = [threading.Thread(target=self._ask, args=(stream,)) for stream in (True, False)]
            for thread in asking:
                thread.start()
            for thread in asking:
                thread.join()
        finally:
            DecodeStep.__call__ = step  # type: ignore[method-assign]

    def check(self) -> None:
        """Whether the server is as it was."""
        until(self._server.is_idle, 20)
        said = self._server.post("/v1/chat/completions", BODY | {"temperature": 0, "stream": False}).json()
        assert said["choices"][0]["message"]["content"].startswith("A red circle"), said

    def _ask(self, stream: bool) -> None:
        response = self._server.post("/v1/chat/completions", BODY | {"stream": stream})
        self.met["an event" if '"error"' in response.text and response.status_code == 200 else str(response.status_code)] += 1

    def _note(self, connection: socket.socket) -> None:
        connection.settimeout(0.3)
        try:
            status = (connection.recv(100) or b"- closed").split()[1].decode()
        except OSError:
            status = "nothing"
        self.met[status] += 1

    def _connected(self) -> socket.socket:
        host, port = self._server.address.removeprefix("http://").split(":")
        return socket.create_connection((host, int(port)))

    def _request(self, **more: object) -> bytes:
        body = json.dumps(BODY | more | {"stream": self._chance.random() < 0.5 or bool(more)})
        head = "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json"
        return f"{head}\r\ncontent-length: {len(body)}\r\n\r\n{body}".encode()


def end_at_random(chance: random.Random) -> str:
    """SIGTERM to a process while answers run, or while it loads; its exit code."""
    command = [sys.executable, "-m", "idefics2_onnx", "serve", "--port", "0", "--log-level", "error"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        address = ""
        while not address:
            address = (re.findall(r"Listening at (\S+)\.", process.stderr.readline()) or [""])[0]  # type: ignore[union-attr]
        ends: list[str] = []

        def ask() -> None:
            try:
                response = httpx2.post(f"{address}/v1/chat/completions", json=BODY, timeout=60)
                ends.append(
                    "503" if response.status_code == 503 else "whole" if "[DONE]" in response.text else response.text[-300:]
                )
            except httpx2.TransportError:
                ends.append("refused")

        asking = [threading.Thread(target=ask) for _ in range(4)]
        for thread in asking:
            time.sleep(chance.uniform(0, 0.8))
            thread.start()
        process.send_signal(signal.SIGTERM)
        for thread in asking:
            thread.join()
        return f"exit {process.wait(60)}, {' '.join(sorted(set(ends)))}"


def main(each: int, seed: int) -> None:
    chance = random.Random(seed)
    with live(Idefics2.from_pretrained(), body_timeout=0.3, timeout=2.0, rows=4) as server:
        faults = Faults(server, chance)
        kinds: list[Callable[[], None]] = [
            faults.vanish, faults.stop_half_way, faults.read_nothing, faults.send_junk, faults.break_decoder
        ]  # fmt: skip
        for kind in kinds:
            faults.met.clear()
            for _ in range(each):
                kind()
                if chance.random() < 0.3:
                    faults.check()
            faults.check()
            odd = {status for status in faults.met if status.isdigit()} - STATED
            print(f"{kind.__name__}: {each} times, {dict(faults.met)}{f', ODD: {odd}' if odd else ''}", flush=True)
    print("SIGTERM:", dict(Counter(end_at_random(chance) for _ in range(each))))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--each", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    main(**vars(parser.parse_args()))
