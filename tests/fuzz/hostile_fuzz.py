"""Hostile folders, words, checkpoints, pictures, messages, addresses and options: each is refused in a sentence of ours, or works.

    PYTHONPATH=tests/support python tests/fuzz/hostile_fuzz.py --cases 5000 --seed 0
    PYTHONPATH=tests/support python tests/fuzz/hostile_fuzz.py --only 17 --seed 0      # one case again

A case fails if it raises anything but an Idefics2OnnxError of one printable line, takes more than LIMIT seconds, ends its process, wants
more than 4 GB of address space, changes a file outside of its own folder, or connects to anything but this machine. What a case does
depends on the seed and its number alone. Needs Linux.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
import random
import resource
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import hostile_calls as calls
import hostile_checkpoints as checkpoints
import hostile_folders as folders
import hostile_words as words
import pytest
from hostile_place import Attempt, Place
from hostile_values import drawn
from hub import connect
from idefics2_onnx.runtime.errors import Idefics2OnnxError
from idefics2_onnx.runtime.folder import DEMO

LIMIT = 30
"""Seconds of processor time, of which another program on the machine takes nothing away; and of waiting, three times as many."""
MEMORY = 4 << 30
"""Bytes of address space."""
CASES_OF_A_WORKER = 500
LONGEST = 3000
"""Characters of a message; no stranger's text is repeated whole."""

KINDS: dict[Callable[[random.Random, Place], Attempt], float] = {
    folders.json_files: 16, folders.graphs: 12, folders.layouts: 5, words.templates: 10, words.tokenizers: 10,
    checkpoints.checkpoints: 10, checkpoints.idefics: 5, checkpoints.adapters: 8, checkpoints.exports: 0.2, calls.pictures: 12, calls.messages: 12, calls.options: 12,
    calls.processors: 8, calls.command_lines: 2, calls.chats: 5, calls.urls: 5,
}  # fmt: skip


@dataclass(frozen=True)
class Outcome:
    """How a case ended."""

    kind: str
    accepted: bool
    wrong: str
    """Empty if nothing is."""
    seconds: float = 0
    peak: int = 0
    """Bytes of memory at most, the worker's own included."""


def prepared(number: int, seed: int, place: Place) -> tuple[str, Attempt]:
    """The case of a number, with its files written: its kind, and what to call."""
    rng, kind = _drawn(number, seed)
    return kind.__name__, kind(rng, place)


def _drawn(number: int, seed: int) -> tuple[random.Random, Callable[[random.Random, Place], Attempt]]:
    rng = random.Random(f"{seed}/{number}")
    return rng, rng.choices(list(KINDS), list(KINDS.values()))[0]


def tried(kind: str, attempt: Attempt) -> Outcome:
    started = time.monotonic()
    with contextlib.suppress(OSError):  # the peak counts from here
        Path("/proc/self/clear_refs").write_text("5")
    accepted, wrong = True, ""
    try:
        attempt()
    except BaseException as error:  # a panic of Rust's is no Exception
        accepted, wrong = False, wrong_with(error)
    seconds = time.monotonic() - started
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return Outcome(kind, accepted, wrong, seconds, int(status["VmHWM"].split()[0]) * 1024)


def wrong_with(error: BaseException) -> str:
    """What is wrong with an error, empty if it is one of ours in one line."""
    text = str(error)
    if not isinstance(error, Idefics2OnnxError):
        return "".join(traceback.format_exception(error))[-3000:]
    if not text.strip() or not text.isprintable() or "Traceback" in text or len(text) > LONGEST:
        return f"{type(error).__name__} with a message of {len(text)} characters: {text[:500]!a}\n" + "".join(
            traceback.format_tb(error.__traceback__)[-1:]
        )
    return ""


def work(orders: Connection, other_end: Connection, seed: int, place: Place, log: Path) -> None:
    """A worker: try the cases of the numbers that come in."""
    other_end.close()  # so that the worker ends where the fuzz does
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(output, 1)
    os.dup2(output, 2)
    root, patch = place.folder.parent, pytest.MonkeyPatch()
    os.chdir(root / "work")
    connect(patch, "http://127.0.0.1:9", str(root / "home"))
    patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    patch.setattr("tempfile.tempdir", str(root / "tmp"))
    for name in ("HOME", "XDG_CACHE_HOME", "XDG_STATE_HOME"):
        patch.setenv(name, str(root / "home"))
    patch.delenv("IDEFICS2_ONNX_MODEL", raising=False)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    reached: list[str] = []
    sys.addaudithook(lambda event, given: _watch_network(event, given, reached))
    while True:
        try:
            number = orders.recv()
        except EOFError:
            return
        try:
            outcome = tried(*prepared(number, seed, place))
        except Exception as error:
            outcome = Outcome("the fuzz itself", False, "".join(traceback.format_exception(error)))
        if reached:
            outcome = Outcome(outcome.kind, False, f"connected to {reached}\n{outcome.wrong}")
            reached.clear()
        orders.send(outcome)


def _watch_network(event: str, given: tuple[Any, ...], reached: list[str]) -> None:
    """Nothing beyond this machine is asked or connected to, and connections are reported."""
    if event == "socket.connect" and isinstance(given[1], tuple) and not str(given[1][0]).startswith(("127.", "::1")):
        reached.append(str(given[1]))
        raise OSError("no network in here")
    if (
        event == "socket.getaddrinfo"
        and given[0] not in ("localhost", None)
        and not set(str(given[0])) <= set("0123456789abcdef.:[]%")
    ):
        raise OSError("no names in here")


class Workplace:
    """The worker, watched, and the folders that it may not change."""

    def __init__(self, root: Path, seed: int, place: Place) -> None:
        self._root, self._seed, self._place = root, seed, place
        self._worker: Any = None
        self._done = 0
        self._before = self._outside()

    def outcome(self, number: int) -> Outcome:
        """Try a case."""
        shutil.rmtree(self._place.folder, ignore_errors=True)
        self._place.folder.mkdir()
        if self._worker is None or self._done >= CASES_OF_A_WORKER:
            self._start()
        self._done += 1
        self._orders.send(number)
        outcome, spent, started = None, _processor_seconds(self._worker.pid), time.monotonic()
        while outcome is None:
            if self._orders.poll(0.2):
                outcome = self._received(number)
            elif _processor_seconds(self._worker.pid) - spent > LIMIT or time.monotonic() - started > 3 * LIMIT:
                outcome = self._lost(number, f"takes more than {LIMIT} s", time.monotonic() - started)
        changed, self._before = self._before ^ (now := self._outside()), now
        if changed and self._worker is not None:
            outcome = Outcome(
                outcome.kind,
                outcome.accepted,
                f"{outcome.wrong}\noutside of its folder: {sorted(changed)}",
                outcome.seconds,
                outcome.peak,
            )
        return outcome

    def close(self) -> None:
        if self._worker is not None:
            self._worker.kill()
            self._worker.join()
            self._worker = None

    def _start(self) -> None:
        self.close()
        context = multiprocessing.get_context("fork")  # everything is imported already
        self._orders, theirs = context.Pipe()
        self._worker = context.Process(
            target=work, args=(theirs, self._orders, self._seed, self._place, self._root / "log"), daemon=True
        )
        self._worker.start()
        theirs.close()
        self._done = 0

    def _received(self, number: int) -> Outcome:
        try:
            found: Outcome = self._orders.recv()
        except EOFError:
            self._worker.join()
            return self._lost(number, f"ended the process with {self._worker.exitcode}")
        return found

    def _lost(self, number: int, wrong: str, seconds: float = 0) -> Outcome:
        """Of a case that took its worker with it."""
        self.close()
        return Outcome(
            kind_of(number, self._seed), False, f"{wrong}\n{(self._root / 'log').read_text(errors='replace')[-2000:]}", seconds
        )

    def _outside(self) -> set[tuple[str, int, int]]:
        """Names of all that belongs to no case, with the sizes and times of files."""
        own = [path for path in self._root.iterdir() if path not in (self._place.folder, self._root / "log")]
        # A file that may be tiktoken's is copied to that library's cache.
        shutil.rmtree(self._root / "tmp" / "data-gym-cache", ignore_errors=True)
        found = [(path, path.lstat()) for top in (*own, DEMO) for path in (top, *top.rglob("*"))]
        return {(str(path), 0, 0) if path.is_dir() else (str(path), stat.st_size, stat.st_mtime_ns) for path, stat in found}


def _processor_seconds(process: int) -> float:
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def place_in(root: Path, seed: int, count: int) -> Iterator[Place]:
    """A place with what all cases share, made in a process of its own: threads that computed do not outlive a fork."""
    for name in ("home", "tmp", "work", "canary", "honest"):
        (root / name).mkdir(exist_ok=True)
    (root / "canary" / "secret.txt").write_text("a secret")
    shutil.copyfile(folders.PICTURE, root / "canary" / "secret.png")
    maker = multiprocessing.get_context("fork").Process(target=checkpoints.write_honest, args=(root / "honest",))
    maker.start()
    maker.join()
    honest = root / "honest"
    yield Place(
        root / "case",
        root / "canary",
        honest / "checkpoint",
        honest / "adapter",
        honest / "idefics",
        drawn("json", seed, count),
        drawn("messages", seed, count),
    )


def kind_of(number: int, seed: int) -> str:
    return _drawn(number, seed)[1].__name__


def run_cases(numbers: Iterable[int], seed: int, root: Path) -> int:
    """Try them, print what is wrong and a table by kind; how many are wrong."""
    outcomes: dict[str, list[tuple[Outcome, int]]] = defaultdict(list)
    with place_in(root, seed, 600) as place:
        workplace = Workplace(root, seed, place)
        try:
            for number in numbers:
                outcome = workplace.outcome(number)
                outcomes[outcome.kind].append((outcome, number))
                if outcome.wrong:
                    print(
                        f"--- seed {seed}, case {number} ({outcome.kind}, {outcome.seconds:.1f} s): --seed {seed} --only {number}\n{outcome.wrong}",
                        flush=True,
                    )
        finally:
            workplace.close()
    total = Counter[str]()
    print(f"{'kind':16} {'cases':>6} {'refused':>8} {'accepted':>9} {'wrong':>6} {'slowest':>9} {'(case)':>8} {'peak':>8}")
    for kind, found in sorted(outcomes.items()):
        wrong, accepted = sum(bool(each.wrong) for each, _ in found), sum(each.accepted and not each.wrong for each, _ in found)
        seconds, slowest = max((each.seconds, number) for each, number in found)
        peak = max(each.peak for each, _ in found) >> 20
        print(
            f"{kind:16} {len(found):6} {len(found) - wrong - accepted:8} {accepted:9} {wrong:6} {seconds:7.1f} s {slowest:8} {peak:5} MB"
        )
        total.update(cases=len(found), wrong=wrong)
    print(f"{total['cases']} cases, {total['wrong']} wrong", flush=True)
    return total["wrong"]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--only", type=int, help="number of one case to try alone")
    parser.add_argument(
        "--kinds", default=",".join(kind.__name__ for kind in KINDS), help="those to try, with commas between them"
    )
    asked = parser.parse_args()
    numbers = range(asked.first, asked.first + asked.cases) if asked.only is None else [asked.only]
    chosen = [number for number in numbers if asked.only is not None or kind_of(number, asked.seed) in asked.kinds.split(",")]
    with tempfile.TemporaryDirectory(prefix="hostile-", ignore_cleanup_errors=True) as temporary:
        sys.exit(run_cases(chosen, asked.seed, Path(temporary)) > 0)
