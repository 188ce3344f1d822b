"""Beside mistral.rs, the one other way to run Idefics2 without PyTorch: right answers, time to the first token, speed, memory.

    python benchmarks/mistral_rs.py CHECKPOINT FOLDER --peer PYTHON [--quant Q4K] [--cases 12] [--rounds 3]
        [--photo 4000x3000] [--at-once 1,8]

PYTHON is the interpreter of an environment with `mistralrs`; FOLDER, what CHECKPOINT was exported to. Both are processes that
stay, and each round asks them in turn. Without --photo the questions are the demo's held-out ones; with it, one about a photo of
that size, for checkpoints that answer nothing; another photo in each round, since mistral.rs remembers features. One request at a
time, and eight at once: ours in a `Scheduler`, theirs as its engine takes them. The eight are alike, since its engine fails where
images of several sizes meet. So it does where CHECKPOINT's preprocessor_config.json does not say do_resize, and where a photo is
so small that its four pieces become smaller than the whole.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from threading import Lock
from typing import Any

ROWS, NEW, LONGEST = 8, 64, 96
"""Of ours; tokens of an answer at most where they are timed, and where they are judged."""


def memory() -> int:
    """Bytes that this process had in memory at most."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


class Theirs:
    """mistral.rs."""

    def __init__(self, source: str, quantisation: str) -> None:
        import mistralrs

        self.mistralrs = mistralrs
        which = mistralrs.Which.MultimodalPlain(source, arch=mistralrs.MultimodalArchitecture.Idefics2)
        self.runner = mistralrs.Runner(which, in_situ_quant=quantisation or None, no_paged_attn=True, prefix_cache_n=0)
        self.version, self.sending = version("mistralrs"), Lock()

    def ask(self, turns: list[list[str]], new: int) -> tuple[str, float, int, float, int]:
        """Text, seconds to the first token, tokens, seconds in all, tokens of the prompt."""
        messages = []
        for role, text, *images in turns:
            parts = [{"type": "image_url", "image_url": {"url": f"data:image/png;base64,{image}"}} for image in images]
            messages.append({"role": role, "content": [*parts, {"type": "text", "text": text}] if images else text})
        request = self.mistralrs.ChatCompletionRequest(
            model="default", messages=messages, max_tokens=new, temperature=0.0, stream=True
        )
        start, first, texts, usage = time.perf_counter(), 0.0, [], None
        with self.sending:  # two at once are "Already borrowed"; once sent, they run together
            chunks = self.runner.send_chat_completion_request(request)
        for chunk in chunks:
            if text := chunk.choices[0].delta.content:
                first = first or time.perf_counter() - start
                texts.append(text)
            usage = chunk.usage or usage
        seconds = time.perf_counter() - start
        return (
            "".join(texts),
            first or seconds,
            usage.completion_tokens if usage else len(texts),
            seconds,
            usage.prompt_tokens if usage else 0,
        )


class Ours:
    """A model folder, through a scheduler."""

    def __init__(self, source: str, _: str) -> None:
        from idefics2_onnx import Scheduler, load

        self.model = load(source, "cpu", image_cache=0, spinning=False)
        self.scheduler = Scheduler(self.model, rows=ROWS)
        self.version = f"onnxruntime {version('onnxruntime')}"

    def ask(self, turns: list[list[str]], new: int) -> tuple[str, float, int, float, int]:
        messages: list[Any] = []
        for role, text, *images in turns:
            parts = [{"type": "image", "image": base64.b64decode(image)} for image in images]
            messages.append({"role": role, "content": [*parts, {"type": "text", "text": text}]})
        start = time.perf_counter()
        found = self.scheduler.submit(messages, max_new_tokens=new).result()
        seconds = time.perf_counter() - start
        first = found.timings.waiting + found.timings.prefill  # a text may come later: random tokens are none for long
        return found.text, first, len(found.token_ids), seconds, found.timings.prompt_tokens


def work(kind: str, source: str, quantisation: str) -> None:
    """Answer lines of stdin: what to ask, how many at once, and how many tokens."""
    start = time.perf_counter()
    contestant = {"ours": Ours, "theirs": Theirs}[kind](source, quantisation)
    print(json.dumps({"opening": time.perf_counter() - start, "version": contestant.version}), flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        with ThreadPoolExecutor(asked["at once"]) as pool:
            start = time.perf_counter()
            found = list(pool.map(lambda turns: contestant.ask(turns, asked["new"]), asked["questions"]))  # noqa: B023
            seconds = time.perf_counter() - start
        print(json.dumps({"answers": found, "seconds": seconds, "memory": memory()}), flush=True)


class EndedError(SystemExit):
    """A contestant's process is over."""


class Contestant:
    """One of the two, in a process of its own."""

    def __init__(self, python: str, kind: str, source: str, quantisation: str, log: Any) -> None:
        command = [python, __file__, source, source, "--work", kind, "--quant", quantisation]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True)
        self.ended = False
        self.opened = self._read()

    def ask(self, questions: list[Any], at_once: int, new: int) -> dict[str, Any]:
        assert self._process.stdin
        self._process.stdin.write(json.dumps({"questions": questions, "at once": at_once, "new": new}) + "\n")
        self._process.stdin.flush()
        return self._read()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout
        for line in self._process.stdout:
            if line.startswith("{"):  # the other's own words go there, too
                found: dict[str, Any] = json.loads(line)
                return found
        self.ended = True
        raise EndedError("A contestant ended; see the log.")

    def close(self) -> None:
        if not self.ended:
            self._process.communicate(timeout=60)


def png(image: Any) -> str:
    held = io.BytesIO()
    image.save(held, "PNG")
    return base64.b64encode(held.getvalue()).decode()


def about_a_photo(size: tuple[int, int], brightness: int) -> list[list[str]]:
    """One question about a picture that differs by its brightness."""
    from PIL import Image
    from skimage import data

    image = Image.fromarray(data.coffee()).resize(size).point(lambda value: min(255, value + brightness))
    return [["user", "Tell me about this picture, and about all that can be seen in it.", png(image)]]


def held_out(cases: int) -> dict[str, list[tuple[list[list[str]], str]]]:
    """By task, questions with the right answers."""
    from idefics2_onnx.demo.tasks import TASKS, case

    found: dict[str, list[tuple[list[list[str]], str]]] = {}
    for task in TASKS:
        for number in range(cases):
            turns: list[list[str]] = []
            *before, last = case(task, "held-out", number).turns
            for turn in before:
                turns += [["user", turn.question, *map(png, turn.images)], ["assistant", turn.answer]]
            found.setdefault(task, []).append(([*turns, ["user", last.question, *map(png, last.images)]], last.answer))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint")
    parser.add_argument("folder")
    parser.add_argument("--peer", default=sys.executable)
    parser.add_argument("--quant", default="")
    parser.add_argument("--cases", type=int, default=12, help="Of each task.")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--photo", type=lambda size: tuple(map(int, size.split("x"))), help="WIDTHxHEIGHT")
    parser.add_argument("--at-once", default=f"1,{ROWS}", help="Requests that are timed together.")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--work")
    chosen = parser.parse_args()
    if chosen.work:
        work(chosen.work, chosen.checkpoint, chosen.quant)
        return
    results: dict[str, Any] = {"quantisation": chosen.quant or None}
    with Path("mistral_rs.log").open("w") as log:
        both = {
            "ours": Contestant(sys.executable, "ours", chosen.folder, "", log),
            "mistral.rs": Contestant(chosen.peer, "theirs", chosen.checkpoint, chosen.quant, log),
        }
        results["opened"] = {name: one.opened for name, one in both.items()}
        questions: list[Any] = []
        if not chosen.photo:
            for task, asked in held_out(chosen.cases).items():
                questions = questions or [asked[0][0]]
                for name, one in both.items():
                    given = one.ask([turns for turns, _ in asked], 1, LONGEST)["answers"]
                    right = sum(own[0].strip() == answer for own, (_, answer) in zip(given, asked, strict=True))
                    results.setdefault("right", {}).setdefault(name, {})[task] = f"{right} of {len(asked)}"
                    results.setdefault("prompt tokens", {}).setdefault(name, {})[task] = given[0][4]
                    results.setdefault("answers", {}).setdefault(name, {})[task] = [own[0] for own in given[:3]]
        for at_once in map(int, chosen.at_once.split(",")):
            for number in range(chosen.rounds):
                questions = [about_a_photo(chosen.photo, at_once + number)] if chosen.photo else questions
                for name, one in both.items():
                    cell = results.setdefault("speed", {}).setdefault(name, {}).setdefault(f"{at_once} at once", {})
                    if one.ended:
                        continue
                    try:
                        found = one.ask(questions * at_once, at_once, NEW)
                    except EndedError:
                        cell["ended"] = "see the log"
                        continue
                    answers = found["answers"]
                    cell.setdefault("first token", []).append(statistics.median(own[1] for own in answers))
                    cell.setdefault("tokens per second", []).append(sum(own[2] for own in answers) / found["seconds"])
                    after = [(own[2] - 1) / (own[3] - own[1]) for own in answers if own[2] > 1 and own[3] > own[1]]
                    cell.setdefault("tokens per second of an answer, after its first", []).append(
                        statistics.median(after) if after else None
                    )
                    results.setdefault("memory", {})[name] = found["memory"]
        for one in both.values():
            one.close()
    print(json.dumps(results, indent=1, ensure_ascii=False))
    if chosen.json:
        chosen.json.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
