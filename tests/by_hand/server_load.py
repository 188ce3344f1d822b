"""More requests than a server can hold, for a while: none is lost, and it stays as large and as quick to its /health as it was.

PYTHONPATH=tests/support python tests/by_hand/server_load.py [--seconds 600] [--clients 32] [--leaving 0.1]

The server is a process of its own with 8 rows and a queue of 8; clients are twice as many, and each asks again at once, whole or
streamed, with or without a picture. A share of them leaves at a random moment. /health is asked beside a bare uvicorn app in a process
of its own, which shows what the machine's load alone does to it. Times are in milliseconds.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import re
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from multiprocessing import Process, Queue

import httpx2
import numpy as np
import psutil
from live_server import question
from openai import APIError, APITimeoutError, AsyncOpenAI, RateLimitError

PICTURES = ("shapes.png", "sign.png", "receipt.png", "before.png")
SERVE = [sys.executable, "-m", "idefics2_onnx", "serve", "--port", "0", "--rows", "8", "--queue", "8", "--log-level", "warning"]
BARE = """
import asyncio, socket, sys, uvicorn
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route
app = Starlette(routes=[Route("/health", lambda _: JSONResponse({}))])
listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
uvicorn.Server(uvicorn.Config(app, log_level="warning")).run(sockets=[listener])
"""


class Load:
    """What clients met."""

    def __init__(self, address: str, leaving: float, until: float) -> None:
        self._address, self._leaving, self._until = address, leaving, until
        self.ends: Counter[str] = Counter()
        self.first: list[float] = []
        self.between: list[float] = []

    async def client(self, number: int) -> None:
        chance = random.Random(number)
        async with AsyncOpenAI(base_url=f"{self._address}/v1", api_key="none", max_retries=0) as client:
            while time.monotonic() < self._until:
                picture = chance.choice([(), (chance.choice(PICTURES),)])
                options = {"max_tokens": chance.randrange(1, 100), "temperature": 1.5, "seed": chance.randrange(1000)}
                left = chance.random() < self._leaving
                try:
                    await self._ask(client, question("What is in the picture?", *picture), chance.random() < 0.5, options, left)
                except RateLimitError as error:
                    self.ends["429"] += 1
                    await asyncio.sleep(0.05 * float(error.response.headers["retry-after"]))
                except APITimeoutError:
                    self.ends["left" if left else "lost: no answer in time"] += 1
                except APIError as error:
                    self.ends[f"lost: {error}"] += 1

    async def _ask(self, client: AsyncOpenAI, messages: list, stream: bool, options: dict, left: bool) -> None:
        timeout, start = (random.uniform(0.001, 0.3) if left else 120), time.perf_counter()
        if not stream:
            await client.chat.completions.create(model="idefics2-demo", messages=messages, timeout=timeout, **options)
            self.ends["whole"] += 1
            return
        times = []
        chunks = await client.chat.completions.create(
            model="idefics2-demo", messages=messages, stream=True, timeout=120, **options
        )
        async for chunk in chunks:
            if chunk.choices[0].delta.content:
                times.append(time.perf_counter())
            if left and time.perf_counter() - start > timeout:
                await chunks.close()
                self.ends["left"] += 1
                return
        self.first += [times[0] - start] if times else []
        self.between += np.diff(times).tolist()
        self.ends["streamed"] += 1


def look(address: str, seconds: float, times: Queue[list[float]]) -> None:
    """How quick /health is, seen from a process that has nothing else to do."""
    found, end = [], time.monotonic() + seconds
    with httpx2.Client() as client:
        while time.monotonic() < end:
            start = time.perf_counter()
            assert client.get(f"{address}/health").status_code == 200
            found.append(time.perf_counter() - start)
            time.sleep(0.05)
    times.put(found)


def main(seconds: float, clients: int, leaving: float) -> None:
    with subprocess.Popen(SERVE, stderr=subprocess.PIPE, text=True) as server:
        address = ""
        for line in server.stderr or ():
            address = (re.findall(r"Listening at (\S+)\.", line) or [address])[0]
            if "OpenAI's clients" in line:
                break
        process, sizes = psutil.Process(server.pid), []

        async def weigh(load: Load) -> None:
            while time.monotonic() < load._until:
                await asyncio.sleep(min(30, seconds / 10))
                sizes.append((sum(load.ends.values()), process.memory_info().rss / 1e6))

        async def run() -> Load:
            load = Load(address, leaving, time.monotonic() + seconds)
            await asyncio.gather(weigh(load), *map(load.client, range(clients)))
            return load

        with subprocess.Popen([sys.executable, "-c", BARE], stdout=subprocess.PIPE, text=True) as bare:
            port = bare.stdout.readline().strip() if bare.stdout else ""
            times: list[Queue[list[float]]] = [Queue(), Queue()]
            addresses = (address, f"http://127.0.0.1:{port}")
            looking = [Process(target=look, args=(one, seconds, own)) for one, own in zip(addresses, times, strict=True)]
            for one in looking:
                one.start()
            load = asyncio.run(run())
            health, bare_health = (own.get(timeout=60) for own in times)
            for one in looking:
                one.join()
            bare.terminate()
        time.sleep(1)
        said = httpx2.get(f"{address}/metrics").text
        with suppress(psutil.NoSuchProcess):
            process.terminate()
        print(dict(load.ends))
        for name, seen in (("first", load.first), ("between", load.between), ("health", health), ("a bare app's", bare_health)):
            found = np.array(seen) * 1e3
            print(f"{name}: p50 {np.percentile(found, 50):.1f}, p99 {np.percentile(found, 99):.1f}, {len(found)} of them")
        (early, small), (late, large) = sizes[1], sizes[-1]
        print(f"memory: {small:.0f} MB, {large:.0f} MB after {late - early:,} requests more")
        print(re.findall(r"^idefics2_onnx:(?:num_\w+|held_bytes) .*$", said, re.MULTILINE), "exit", server.wait(60))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--leaving", type=float, default=0.1)
    main(**vars(parser.parse_args()))
