"""Plan past one machine: pictures per second, cost and waiting for 1 to 1,000 replicas, from times that were measured.

    python benchmarks/scale.py measure    # the demo, here: its times, and 1 and 2 actors on Ray → results/scale-demo.json
    python benchmarks/scale.py check      # the simulation beside those two
    python benchmarks/scale.py plan       # the tables of docs/scaling.md

A replica is simulated turn by turn, as the scheduler works: what comes is prepared in two threads, then the device encodes its
image and reads its prompt, and between these each step gives every running answer a token. Requests go to the replica that has
less to do, of two.
"""

from __future__ import annotations

import argparse
import heapq
import json
import random
import statistics
import tempfile
import time
from collections import deque
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
THREADS = 2
"""That prepare, in each replica."""
PREPARATION = 0.06
"""Seconds to decode a JPEG of 12 megapixels and cut it, on one core: assumed where no result has it."""
PICTURE = 3e6
"""Bytes of such a file."""
STORAGE = 1.25e9
"""Bytes a second that all replicas read together: a link of 10 Gbit/s."""


@dataclass(frozen=True)
class Kind:
    """A replica on a machine, in seconds of its device.

    Attributes:
        steps: of so many rows, by rows; between two, a straight line.
        rows: answers at once at most.
            price: of an hour, in dollars: an assumption.
    """

    name: str
    preparation: float
    image: float
    prompt: float
    steps: dict[int, float]
    tokens: int
    rows: int
    price: float

    def step(self, rows: int) -> float:
        known = sorted(self.steps)
        if rows <= known[0]:
            return self.steps[known[0]]
        for low, high in pairwise(known):
            if rows <= high:
                share = (rows - low) / (high - low)
                return self.steps[low] * (1 - share) + self.steps[high] * share
        return self.steps[known[-1]] * rows / known[-1]

    @property
    def device_seconds(self) -> float:
        """A picture's, when all rows run."""
        return self.image + self.prompt + self.tokens * self.step(self.rows) / self.rows

    @property
    def most(self) -> dict[str, float]:
        """Pictures a second that each part of a replica gets through."""
        return {"device": 1 / self.device_seconds, "preparation": THREADS / self.preparation if self.preparation else 1e9}


@dataclass
class Replica:
    """One, at its own time."""

    kind: Kind
    now: float = 0.0
    waiting: deque[tuple[float, float]] = field(default_factory=deque)  # when it is ready, when it came
    threads: list[float] = field(default_factory=lambda: [0.0] * THREADS)
    running: list[list[float]] = field(default_factory=list)  # tokens left, when it came
    latencies: list[float] = field(default_factory=list)

    @property
    def load(self) -> int:
        return len(self.waiting) + len(self.running)

    def take(self, came: float) -> None:
        begun = max(came, heapq.heappop(self.threads))
        heapq.heappush(self.threads, begun + self.kind.preparation)
        self.waiting.append((begun + self.kind.preparation, came))

    def run(self, until: float) -> None:
        """Turns that begin before this moment."""
        while self.now < until and (self.waiting or self.running):
            if self.waiting and self.waiting[0][0] <= self.now and len(self.running) < self.kind.rows:
                _, came = self.waiting.popleft()
                self.now += self.kind.image + self.kind.prompt
                self.running.append([self.kind.tokens, came])
            elif not self.running:
                self.now = max(self.now, self.waiting[0][0])
                continue
            if self.running:
                self.now += self.kind.step(len(self.running))
                for row in self.running:
                    row[0] -= 1
                self.latencies += [self.now - came for left, came in self.running if not left]
                self.running = [row for row in self.running if row[0]]
        if self.now < until < float("inf"):
            self.now = until


def batch_speed(kind: Kind, replicas: int, pictures: int = 400) -> float:
    """Pictures a second where all lie there."""
    each = [Replica(kind) for _ in range(replicas)]
    for number in range(pictures):
        each[number % replicas].take(0.0)
    for one in each:
        one.run(float("inf"))
    return pictures / max(one.now for one in each)


def latencies(kind: Kind, replicas: int, load: float, each: int = 40, seed: int = 0) -> tuple[float, float]:
    """Half and 99 of 100 answers are whole after so many seconds, at a share of what the devices can do, at random moments."""
    chance, moment = random.Random(seed), 0.0
    all_of_them = [Replica(kind) for _ in range(replicas)]
    for _ in range(each * replicas):
        moment += chance.expovariate(load * replicas * min(kind.most.values()))
        two = chance.sample(all_of_them, 2) if replicas > 1 else all_of_them
        for one in two:
            one.run(moment)
        min(two, key=lambda one: one.load).take(moment)
    found = []
    for one in all_of_them:
        one.run(float("inf"))
        found += one.latencies
    cuts = statistics.quantiles(found, n=100)
    return cuts[49], cuts[98]


def kinds(tokens: int) -> list[Kind]:
    """The full model, by the raw results."""
    cpu = json.loads((RESULTS / "cpu-full-vnni.json").read_text("utf-8"))
    found = []
    for name in ("int4", "int8"):
        seconds = {what: statistics.median(values) for what, values in cpu["results"][name]["seconds"].items()}
        found.append(
            Kind(
                f"2 cores, {name}", PREPARATION, seconds["image"], seconds["prompt"], {1: seconds["step"]}, tokens, 1, 0.10
            )  # rows: steps of several were not measured at full depth
        )
    gpu = json.loads((RESULTS / "gpu-h100.json").read_text("utf-8"))
    steps = {}
    for rows in (1, 8, 32):
        if (speed := gpu.get(f"ours: fp16, CUDA graph, step of {rows} at 512")) is not None:
            steps[rows] = rows / speed["tokens per second"]
    image, first = gpu["ours: fp16, image 980×735 unsplit"], gpu["ours: fp16, first token 980×735 unsplit"]
    split, first_split = gpu["ours: fp16, image 4000×3000 split"], gpu["ours: fp16, first token 4000×3000 split"]
    h100 = Kind("H100, fp16", PREPARATION, image, first - image, steps, tokens, 32, 3.00)
    return [*found, h100, replace(h100, name="H100, fp16, split", image=split, prompt=first_split - split)]


def plan(tokens: int) -> None:
    print("| replica | pictures/s each | device busy with image, prompt, steps | storage is full at | $ for a million |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for kind in kinds(tokens):
        speed = min(kind.most.values())
        parts = [kind.image, kind.prompt, kind.device_seconds - kind.image - kind.prompt]
        shares = ", ".join(f"{part / kind.device_seconds:.0%}" for part in parts)
        full = STORAGE / PICTURE / speed
        print(f"| {kind.name} | {speed:.3g} | {shares} | {full:,.0f} replicas | {kind.price / 3600 / speed * 1e6:,.0f} |")
    print("\n| pictures/s by replicas | 1 | 10 | 100 | 1,000 | whole after, p50 and p99 at 70 % load: 1 | 10 | 100 |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for kind in kinds(tokens):
        speeds = [min(count * min(kind.most.values()), STORAGE / PICTURE) for count in (1, 10, 100, 1000)]
        waits = [latencies(kind, count, 0.7) for count in (1, 10, 100)]
        cells = [f"{speed:,.3g}" for speed in speeds] + [f"{half:.3g}, {most:.3g} s" for half, most in waits]
        print(f"| {kind.name} | {' | '.join(cells)} |")


def measured_kind(result: dict[str, Any]) -> Kind:
    """A replica whose one core prepares pictures, too."""
    steps = {int(rows): seconds for rows, seconds in result["step"].items()}
    image = result["preparation"] + result["image"]
    return Kind("demo", 0.0, image, result["prompt"], steps, result["tokens"], result["rows"], 0.0)


def check(path: Path) -> None:
    result = json.loads(path.read_text("utf-8"))
    for actors, speeds in result["pictures per second"].items():
        speed = statistics.median(speeds)
        said = batch_speed(measured_kind(result), int(actors), result["pictures"])
        print(f"{actors} replicas: measured {speed:.1f} pictures/s, simulated {said:.1f} ({said / speed - 1:+.0%})")


def pin(actors: int) -> None:
    """Give each actor a core of its own, as if it were alone on a machine of one."""
    import os

    import psutil

    found = [each for each in psutil.process_iter() if each.name().startswith("ray::MapWorker(MapBatches(Answ")]
    assert len(found) == actors, found
    for core, actor in enumerate(found):
        for thread in actor.threads():
            os.sched_setaffinity(thread.id, {core})


def measure(path: Path, pictures: int) -> None:
    import os

    os.environ["OMP_NUM_THREADS"] = "1"
    import onnxruntime as ort
    from idefics2_onnx import Idefics2, Scheduler
    from idefics2_onnx.demo.tasks import case
    from idefics2_onnx.on_ray.job import Opening, answer
    from idefics2_onnx.runtime.batch.answers import Answers
    from idefics2_onnx.runtime.batch.columns import Columns
    from idefics2_onnx.runtime.batch.recipe import recipe
    from idefics2_onnx.runtime.batch.row import fields_of
    from idefics2_onnx.runtime.batch.sources import sources
    from idefics2_onnx.runtime.folder import ModelFolder

    question, rows = "What is in the picture?", 16
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        Path("photos").mkdir()
        for number in range(pictures):
            case("shapes", "held-out", number).turns[0].images[0].save(f"photos/{number:05}.png")
        paths = sorted(Path("photos").iterdir())
        model = Idefics2.from_pretrained(device="cpu", session_options=options, spinning=False, image_cache=0)
        start = time.perf_counter()
        for each in paths[:60]:
            model.processor(text=[f"<image>{question}"], images=[[each]])
        preparation = (time.perf_counter() - start) / 60
        alone = [model.generate(question, [each]) for each in paths[:60]]
        result: dict[str, Any] = {
            "command": "python benchmarks/scale.py measure",
            "pictures": pictures,
            "rows": rows,
            "preparation": preparation,
            "image": statistics.median(one.timings.images for one in alone),
            "prompt": statistics.median(one.timings.prefill for one in alone),
            "tokens": round(statistics.mean(one.timings.new_tokens for one in alone)),
            "step": {},
            "pictures per second": {1: [], 2: []},
        }
        for count in (1, 4, 8, 16):
            with Scheduler(model, rows=count) as scheduler:
                start = time.perf_counter()
                long = {"max_new_tokens": 300, "logit_bias": {"2": -100, "437": -100}}
                for handle in [scheduler.submit("Hello?", **long) for _ in range(count)]:
                    handle.result()
                result["step"][count] = (time.perf_counter() - start) / 300
        model.close()
        demo = ModelFolder.open()
        found = sources(["photos"], Columns("image", "prompt", question))
        for actors in (1, 2) * 3:
            with Answers(Path(f"{actors}.jsonl"), recipe(demo, {}), True, partial(fields_of, options={})) as answers:
                opening = Opening.of(demo, "cpu", 1, rows)
                job = answer("local", found, answers, opening, actors=actors, ordered=False, rows=rows, options={})
                times, quarter = [], pictures // 4
                for _ in job:
                    times.append(time.perf_counter())
                    if len(times) == quarter:  # once all actors are there
                        pin(actors)
            first, last = times[quarter], times[-1]
            result["pictures per second"][actors].append((len(times) - quarter) / (last - first))
    path.write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    print(path.read_text("utf-8"))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=("measure", "check", "plan"))
    parser.add_argument("result", nargs="?", type=Path, default=RESULTS / "scale-demo.json")
    parser.add_argument("--pictures", type=int, default=400)
    parser.add_argument("--tokens", type=int, default=64, help="Of an answer, in plans.")
    given = parser.parse_args()
    if given.what == "plan":
        plan(given.tokens)
    elif given.what == "check":
        check(given.result)
    else:
        measure(given.result.resolve(), given.pictures)


if __name__ == "__main__":
    main()
