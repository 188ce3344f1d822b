"""The command line at its edges: hostile arguments, options, files, lines, sockets, environments and streams; no traceback.

    PYTHONPATH=tests/support python tests/fuzz/edge_fuzz.py --cases 2000 --seed 0

A case fails if it ends in anything but an exit status of 0, 1 or 2, shows a traceback, or takes longer than 60 s of processor
time. Each runs in a folder of its own, and no case names a file that it could write elsewhere. What a case does depends on the seed and its number alone; `--first NUMBER --cases 1` does one again. Needs Linux.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import json
import os
import random
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hostile_values import damaged
from hub import Hub, connect
from idefics2_onnx.cli import main
from idefics2_onnx.graphs.contract import MANIFEST
from idefics2_onnx.runtime.devices.device import DEVICES
from idefics2_onnx.runtime.folder import DEMO
from idefics2_onnx.runtime.sampling.generation_options import GenerationOptions
from PIL import Image

LIMIT = 60
"""Seconds of processor time, of which another program on the machine takes nothing away; and of waiting, five times as many."""
EXAMPLES = Path(__file__).parents[2] / "examples"
TEXTS = [
    "", " ", "Hi", "What is it?", "-", "--", "---x", "-m", ".", "..", "/nowhere/x", "~", "~nobody/x", "é", "画像", "\U0001f600", "\udcff", "a\udc80b",
    "\x1b[31m", "\t", "a\nb", "%s%n", "{x}", "{{ x }}", "{% if", "<image>", "<image><image>", "</s><s>", "<end_of_utterance>",
    "x" * 300, "x" * 5000, "a/b", "a/b/c", "nobody/nothing", "../..", "C:\\x",
    "http://", "http://[", "http://127.0.0.1:9/a b.png", "ftp://a/b.png", "file:///etc/passwd", "data:", "data:image/png;base64,",
    "data:image/png;base64,AAAA", "data:,x", "HTTP://127.0.0.1:9/é", "a=b", "=", "\u202e", "\ufeff", "null", "NaN", "true", "[]",
]  # fmt: skip
NUMBERS = [
    "0",
    "1",
    "2",
    "3",
    "-1",
    "1e3",
    "1.5",
    "nan",
    "inf",
    "-inf",
    "1e400",
    "9" * 30,
    "0x10",
    "1_0",
    "½",
    "٣",
    "",
    "+1",
    " 1",
]
VALUES = [
    *NUMBERS, "null", "true", "false", "True", "[]", "{}", '""', '"x"', "[1]", "[-1]", "[[1]]", "[[]]", '["a"]', '[""]', '{"a": 1}', "[null]",
    "[1e9]", "[[1, 2], [3]]", '"\\ud800"', "[" * 2000, '{"1": NaN}', "2147483648", "-9223372036854775809", "é", "\udcff", "[true]", "0.5",
]  # fmt: skip
SIZES = ["1x1", "30x30", "0x5", "x", "10", "10x", "²x3", "-1x5", "1e2x5", "60x80", "é", "", "1000000x1", "10X10", "3x2x1"]
PATHS = [
    "sound.png",
    "odd \udcff.png",
    "cut.png",
    "junk.png",
    "empty.png",
    "folder",
    "loop",
    "model",
    "checkpoint",
    "data.json",
    "none.png",
]


@dataclass
class Case:
    """One call of the command line.

    Attributes:
        lines: what comes in by stdin.
        environment: variables; None takes one away.
        shell: redirections of a case that runs as a program of its own; None runs it in this one.
    """

    arguments: list[str]
    lines: bytes = b""
    environment: dict[str, str | None] = field(default_factory=dict)
    shell: str | None = None

    def __str__(self) -> str:
        names = " ".join(f"{name}={value!a}" for name, value in self.environment.items())
        typed = f"  with {self.lines[:300]!r}" if self.lines else ""
        return f"{names} idefics2-onnx {' '.join(ascii(a) for a in self.arguments)} {self.shell or ''}{typed}"


@dataclass(frozen=True)
class Place:
    """The folder a case runs in, anew for each."""

    root: Path
    checkpoint: Path

    def fill(self, rng: random.Random) -> None:
        picture = (EXAMPLES / rng.choice(["cat.jpg", "shapes.png"])).read_bytes()
        os.chdir(self.root)
        for name, content in {
            "sound.png": picture, os.fsdecode(b"odd \xff.png"): picture, "cut.png": picture[: rng.randrange(len(picture))],
            "junk.png": rng.randbytes(rng.randrange(1, 2000)), "empty.png": b"", "data.json": _hostile_json(rng),
        }.items():  # fmt: skip
            Path(name).write_bytes(content)
        Path("folder").mkdir()
        Path("loop").symlink_to("loop")


def arguments(rng: random.Random, place: Place) -> Case:
    """Any command with any of its options, in any order."""
    name = rng.choice([*(name for name in main.commands if name not in ("export", "bench", "serve")), "bench", "export"])
    words = [name] if rng.random() < 0.97 else [rng.choice(TEXTS)]
    for option in rng.sample(main.commands[name].params, min(rng.randrange(5), len(main.commands[name].params))):
        if option.name in ("rounds", "batches", "prompt_tokens", "new_tokens") and name == "bench":
            words += [option.opts[-1], rng.choice(["1", "0", "-1", "2", "x", ""])]
        elif option.param_type_name == "option":
            words += (
                [rng.choice(option.opts)]
                if getattr(option, "is_flag", False)
                else [rng.choice(option.opts), _value(rng, option.name)]
            )
    pool = [*TEXTS, *PATHS, *PATHS]
    words += [rng.choice(pool) for _ in range(rng.randrange(4))]
    if name in ("run", "chat", "batch"):
        words += ["--max-new-tokens", "2"]
    if name == "bench":
        words += ["--rounds", "1", "--image", "30x30", "--prompt-tokens", "2", "--batch", "1", "--new-tokens", "2"]
    if name == "export":
        words += ["--verify", "never"]
    if "model" in words and rng.random() < 0.5:
        shutil.copytree(DEMO, "model")
    environment = {"IDEFICS2_ONNX_MODEL": rng.choice([*TEXTS, *PATHS])} if rng.random() < 0.2 else {}
    return Case(words, environment=environment)


def _value(rng: random.Random, name: str | None) -> str:
    pools = {
        "device": [*DEVICES.split(", "), "cuda:0", "cuda:99", "cpu:1", "openvino"], "sizes": SIZES, "chosen": [f"seed={v}" for v in VALUES],
        "gpu": ["memory_limit=1", "memory_limit=x", "graphs=true", "x=1", "memory_limit=nan"],
    }  # fmt: skip
    return rng.choice(pools.get(name or "", [*TEXTS, *NUMBERS, *PATHS]))


def options(rng: random.Random, place: Place) -> Case:
    """Generation options with values of all kinds."""
    names = list(GenerationOptions.__dataclass_fields__)
    words = ["run", rng.choice(["Hi", "What is it? " * 30, "é画", "\udcff"]), "--max-new-tokens", "3"]
    for _ in range(rng.randrange(1, 4)):
        words += ["-O", f"{rng.choice(names)}={rng.choice(VALUES)}"]
    return Case(words + rng.choice([[], [], ["--json"], ["--stats"], ["--raw"]]))


def pictures(rng: random.Random, place: Place) -> Case:
    """Damaged files of every format that Pillow writes."""
    kind = rng.choice(
        ["PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF", "PPM", "ICO", "TGA", "JPEG2000", "DDS", "PCX", "SGI", "MPO", "PDF"]
    )
    file = io.BytesIO()
    with contextlib.suppress(Exception):
        Image.effect_noise((rng.randrange(1, 60), rng.randrange(1, 60)), 50).convert(rng.choice(["RGB", "L", "P", "RGBA"])).save(
            file, kind
        )
    Path("picture").write_bytes(damaged(rng, file.getvalue()))
    commands = [
        ["run", "picture", "Hi", "--max-new-tokens", "1"],
        ["preview", "picture", "-o", "t.png"],
        ["preview", "picture", "--json"],
        ["batch", "picture", "-o", "t.jsonl", "--prompt", "Hi", "--max-new-tokens", "1"],
    ]
    return Case(rng.choice(commands))


def folders(rng: random.Random, place: Place) -> Case:
    """A model folder with a damaged or hostile file, with or without its right hash in the manifest."""
    shutil.copytree(DEMO, "model")
    name = rng.choice([path.name for path in Path("model").iterdir()])
    path, content = Path("model") / name, (DEMO / name).read_bytes()
    changed = _edited_json(rng, content) if name.endswith(".json") and rng.random() < 0.7 else damaged(rng, content)
    path.write_bytes(changed)
    if name != MANIFEST and rng.random() < 0.8:
        manifest = json.loads((DEMO / MANIFEST).read_bytes())
        manifest["files"][name] = {"size": len(changed), "sha256": hashlib.sha256(changed).hexdigest()}
        (Path("model") / MANIFEST).write_text(json.dumps(manifest))
    commands = [["info", "model"], ["info", "model", "--json"], ["verify", "model"], ["doctor", "model"], ["preview", "sound.png", "-m", "model", "-o", "t.png"]]  # fmt: skip
    return Case(rng.choice([*commands, *[["run", "sound.png", "Hi", "-m", "model", "--max-new-tokens", "2"]] * 3]))


def checkpoints(rng: random.Random, place: Place) -> Case:
    """A checkpoint with a damaged or hostile file."""
    shutil.copytree(place.checkpoint, "checkpoint")
    path = Path("checkpoint") / rng.choice([path.name for path in place.checkpoint.iterdir()])
    content = path.read_bytes()
    path.write_bytes(_edited_json(rng, content) if path.suffix == ".json" and rng.random() < 0.7 else damaged(rng, content))
    return Case(["export", "checkpoint", "--verify", "never", rng.choice(["--fp32", "--fp16", "--int8"]), "-o", "out"])


def chats(rng: random.Random, place: Place) -> Case:
    """Lines that a person, or a file, types into a chat."""
    commands = ["/image", "/undo", "/reset", "/save", "/load", "/stats", "/help", "/", "/nope", "/IMAGE"]
    texts = [*TEXTS, *PATHS, "\0", "a\0b"]
    lines = [
        f"{rng.choice(commands)} {rng.choice(texts)}" if rng.random() < 0.6 else rng.choice(texts)
        for _ in range(rng.randrange(1, 8))
    ]
    typed = "\n".join(lines).encode("utf-8", "surrogatepass") + rng.choice([b"", b"\n", b"\xff\xfe\n", b"\r\n/quit\r\n"])
    return Case(["chat", "--max-new-tokens", "2", *rng.choice([[], ["sound.png"], ["junk.png"]])], typed)


def sockets(rng: random.Random, place: Place) -> Case:
    """Servers of pictures that answer anything."""
    body = rng.choice([(EXAMPLES / "shapes.png").read_bytes(), b"", b"x" * 1000, b"<html>"])
    status = rng.choice(
        [b"200 OK", b"404 No", b"302 Found", b"999 \xff", b"200", b"abc", b"500 \x1b[2J", b"100 Continue", b"204 No", b"301 M"]
    )
    headers = rng.sample(
        [
            b"Content-Length: %d" % len(body), b"Content-Length: 99999999", b"Content-Length: -5", b"Content-Length: x", b"Location: /",
            b"Transfer-Encoding: chunked", b"Content-Encoding: gzip", b"Location: http://[", b"Location: \xff\xe9", b"X: " + b"y" * 70_000,
            b"no colon", b": empty", b"Content-Type: \xff; charset=nope", b"Location: file:///etc/passwd", b"Set-Cookie: " + rng.randbytes(20),
        ], rng.randrange(5),
    )  # fmt: skip
    answer = b"HTTP/1.1 " + status + b"\r\n" + b"".join(header + b"\r\n" for header in headers) + b"\r\n" + body
    address = _serve(damaged(rng, answer) if rng.random() < 0.5 else answer)
    path = rng.choice(["/a.png", "/a b.png", "/é", "?x=é", "", "/\udcff", "/%zz", "/a#b"])
    return Case(["run", address + path, "Hi", "--max-new-tokens", "1"])


def hubs(rng: random.Random, place: Place) -> Case:
    """Hubs that answer anything, and offline use of what they left in the cache."""
    files = {path.name: path.read_bytes() for path in (place.checkpoint, DEMO)[rng.randrange(2)].iterdir()}
    for name in rng.sample(sorted(files), rng.randrange(3)):
        files[name] = damaged(rng, files[name])
    bodies = [
        b"",
        b"{}",
        b"[]",
        b"null",
        b"<html>",
        b'{"sha": 5}',
        b'[{"type": "file"}]',
        b'{"id": "a/b", "sha": "../x", "siblings": 1}',
        rng.randbytes(50),
    ]
    status, body, share = (
        rng.choice([200, 200, 301, 400, 401, 403, 404, 407, 416, 429, 500, 503, 599]),
        rng.choice(bodies),
        rng.random() * 0.7,
    )
    codes = ["GatedRepo", "RepoNotFound", "EntryNotFound", "RevisionNotFound", "Odd"]
    headers = rng.choice(
        [{}, {"X-Error-Code": rng.choice(codes)}, {"Location": "/x"}, {"X-Error-Message": "é".encode().decode("latin-1")}]
    )
    answer = rng.choice([(status, headers, body), b"", b"SSH\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc"])
    faults = random.Random(rng.random())
    hub = Hub(files, lambda path: answer if faults.random() < share else None)
    _open.callback(hub.server.server_close)
    _open.callback(hub.server.shutdown)
    connect(_patch, hub.address, str(place.root / "cache"))
    words = [["run", "Hi", "-m", "someone/tuned", "--max-new-tokens", "1"], ["info", "someone/tuned"], ["export", "someone/tuned", "--verify", "never", "-o", "folder/x"]]  # fmt: skip
    case = Case(rng.choice(words[:2] if rng.random() < 0.6 else words))
    if case.arguments[0] == "export" and rng.random() < 0.3:
        case.arguments += ["--revision", rng.choice([text for text in TEXTS if text])]
    if rng.random() < 0.3:  # what an earlier call left
        CliRunner().invoke(main, case.arguments)
        _patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return case


def environments(rng: random.Random, place: Place) -> Case:
    """Variables that say anything, in a program of its own."""
    names = [
        "IDEFICS2_ONNX_MODEL", "HF_HOME", "HF_ENDPOINT", "HF_TOKEN", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "http_proxy", "no_proxy",
        "COLUMNS", "LINES", "TERM", "LANG", "LC_ALL", "HOME", "XDG_STATE_HOME", "XDG_CACHE_HOME", "TMPDIR", "HF_HUB_OFFLINE", "OMP_NUM_THREADS",
        "SSL_CERT_FILE", "HF_HUB_DOWNLOAD_TIMEOUT", "NO_COLOR", "FORCE_COLOR", "CUDA_VISIBLE_DEVICES",
    ]  # fmt: skip
    values = [
        *TEXTS,
        *NUMBERS,
        "socks5://127.0.0.1:9",
        "http://127.0.0.1:9",
        "http://a:b:c",
        "ftp://x",
        "POSIX",
        "de_DE.ISO-8859-1",
        "ja_JP.SJIS",
        "*",
        "dumb",
    ]
    environment: dict[str, str | None] = {name: rng.choice(values) for name in rng.sample(names, rng.randrange(1, 4))}
    words = [["run", "Hi", "--max-new-tokens", "1"], ["doctor"], ["info"], ["--help"], ["run", "http://127.0.0.1:9/a.png", "Hi"], ["run", "Hi", "-m", "a/b"], ["preview", "sound.png"]]  # fmt: skip
    return Case(rng.choice(words), environment=environment, shell="")


def streams(rng: random.Random, place: Place) -> Case:
    """Encodings, closed streams, full disks, readers that leave, in a program of its own."""
    encoding = rng.choice(["ascii", "cp1252", "cp437", "utf-16", "shift-jis", "utf-8:strict", "latin-1", "koi8-r", "utf-7"])
    redirections = ["", "<&-", ">&-", "2>&-", "<&- >&- 2>&-", ">/dev/full", "2>/dev/full", ">/dev/full 2>&1", "</dev/full", "| head -c 1", "2>&1 | head -c 1"]  # fmt: skip
    words = [["run", rng.choice(["Hi", "画 é", "\udcff"]), "--max-new-tokens", "3"], ["run", "Hi", "--json", "--max-new-tokens", "3"], ["chat", "--max-new-tokens", "2"], ["doctor", "--json"], ["info"], ["--help"], ["run", "\udcff画.png", "Hi"], ["preview", "sound.png", "-o", "\udcff画.png"], ["verify"]]  # fmt: skip
    typed = "Hi\n画 é\n".encode() + rng.randbytes(20) + b"\n"
    return Case(rng.choice(words), typed, {"PYTHONIOENCODING": encoding}, rng.choice(redirections))


KINDS: dict[Callable[[random.Random, Place], Case], int] = {
    arguments: 30, options: 20, pictures: 10, folders: 12, checkpoints: 3, chats: 8, sockets: 6, hubs: 4, environments: 4, streams: 3,
}  # fmt: skip
_TIMERS = ((signal.ITIMER_PROF, signal.SIGPROF, LIMIT), (signal.ITIMER_REAL, signal.SIGALRM, 5 * LIMIT))
_patch, _open = pytest.MonkeyPatch(), contextlib.ExitStack()


def _hostile_json(rng: random.Random) -> bytes:
    return rng.choice([b"", b"{", b"[]", b"null", b"5", b'"x"', b"[" * 100_000, b"\xff", b"{}", b'{"messages": 5}', b"NaN", b'\xef\xbb\xbf{}', b'[{"role": "user"}]', b'[{"role": 1, "content": [[]]}]'])  # fmt: skip


def _edited_json(rng: random.Random, content: bytes) -> bytes:
    """A valid file with one of its values exchanged, taken out, or one put in."""
    try:
        whole = json.loads(content)
    except ValueError:
        return _hostile_json(rng)
    odd: list[Any] = [
        None,
        0,
        -1,
        1,
        1.5,
        10**30,
        float("nan"),
        "",
        "x",
        "\ud800",
        [],
        {},
        [[]],
        [None],
        {"a": {}},
        True,
        "é" * 100,
        -(10**18),
    ]
    place: Any = whole
    for _ in range(rng.randrange(4)):
        inner = [
            value for value in (place.values() if isinstance(place, dict) else place) if isinstance(value, dict | list) and value
        ]
        if not inner:
            break
        place = rng.choice(inner)
    if isinstance(place, dict) and place:
        key = rng.choice([*place, "new"])
        if rng.random() < 0.2:
            place.pop(key, None)
        else:
            place[key] = rng.choice(odd)
    elif isinstance(place, list) and place:
        place[rng.randrange(len(place))] = rng.choice(odd)
    return json.dumps(whole).encode()


def _serve(answer: bytes) -> str:
    listening = socket.create_server(("127.0.0.1", 0))
    _open.callback(listening.close)

    def loop() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listening.accept()
                with connection, contextlib.suppress(OSError):
                    connection.settimeout(5)
                    connection.recv(65536)
                    connection.sendall(answer)

    threading.Thread(target=loop, daemon=True).start()
    return f"http://127.0.0.1:{listening.getsockname()[1]}"


def run_here(case: Case, limited: bool = True) -> str:
    """What is wrong with how a case ended in this process; empty if nothing is. `limited`: it may not take longer than LIMIT."""
    for name, value in case.environment.items():
        _patch.setenv(name, value) if value is not None else _patch.delenv(name, raising=False)

    def expire(*_: object) -> None:
        raise TimeoutError(f"took longer than {LIMIT} s")

    for timer, ending, seconds in _TIMERS if limited else ():
        signal.signal(ending, expire)
        signal.setitimer(timer, seconds)
    try:
        result = CliRunner().invoke(main, case.arguments, input=case.lines)
    finally:
        for timer, _, _ in _TIMERS:
            signal.setitimer(timer, 0)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        return "".join(traceback.format_exception(result.exception))
    return _wrong(result.exit_code, result.stderr)


def run_apart(case: Case) -> str:
    """What is wrong with how a case ended as a program of its own."""
    variables = {name: value for name, value in (os.environ | case.environment).items() if value is not None}
    words = [sys.executable, "-c", "from idefics2_onnx.cli import main; main(prog_name='idefics2-onnx')", *case.arguments]
    command = f"ulimit -t {LIMIT}; set -o pipefail; {' '.join(map(shlex.quote, words))} {case.shell}"
    try:
        run = subprocess.run(
            ["/bin/bash", "-c", command], env=variables, input=case.lines, capture_output=True, timeout=5 * LIMIT
        )
    except subprocess.TimeoutExpired:
        return f"took longer than {5 * LIMIT} s"
    return _wrong(run.returncode, (run.stderr + run.stdout).decode("utf-8", "replace"))


def _wrong(status: int, text: str) -> str:
    faults = [word for word in ("Traceback (most", "Exception ignored", "panicked at", "Fatal Python") if word in text]
    return f"exit status {status}: {text[-3000:]}" if faults or status not in (0, 1, 2) else ""


@contextlib.contextmanager
def prepared(rng: random.Random, checkpoint: Path) -> Iterator[Place]:
    """A folder of its own, and everything else as it was afterwards."""
    before, pixels = Path.cwd(), Image.MAX_IMAGE_PIXELS
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as root:
        place = Place(Path(root) / "a" / "b" / "c", checkpoint)  # "../.." leads nowhere else
        place.root.mkdir(parents=True)
        _patch.setenv("HOME", root)
        connect(_patch, "http://127.0.0.1:9", str(place.root / "cache"))
        _patch.delenv("IDEFICS2_ONNX_MODEL", raising=False)
        _patch.setenv("XDG_STATE_HOME", root)
        _patch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
        try:
            place.fill(rng)
            yield place
        finally:
            os.chdir(before)
            _open.close()
            _patch.undo()
            Image.MAX_IMAGE_PIXELS = pixels


def try_case(number: int, seed: int, checkpoint: Path) -> tuple[str, Case, str, float]:
    """Its kind, what it was, what is wrong with how it ended, and the seconds it took."""
    rng = random.Random(f"{seed}/{number}")
    kind = rng.choices(list(KINDS), list(KINDS.values()))[0]
    with prepared(rng, checkpoint) as place:
        case = kind(rng, place)
        started = time.monotonic()
        wrong = run_here(case) if case.shell is None else run_apart(case)
        return kind.__name__, case, wrong, time.monotonic() - started


def write_small_checkpoint(folder: Path) -> Path:
    from idefics2_onnx.demo.random_model import write_checkpoint
    from small_models import SMALL_MODELS

    small = SMALL_MODELS["plain"]
    write_checkpoint(folder, small.config, image_options=small.image_options)
    return folder


def run_cases(numbers: range, seed: int, checkpoint: Path) -> int:
    """Try them, and print counts by kind and what failed; how many did."""
    tried, failed, slowest = Counter[str](), Counter[str](), (0.0, 0)
    for number in numbers:
        name, case, wrong, seconds = try_case(number, seed, checkpoint)
        tried[name] += 1
        slowest = max(slowest, (seconds, number))
        if number % 100 == 99:
            print(f"{tried.total()} cases, {failed.total()} failed", flush=True)
        if wrong:
            failed[name] += 1
            print(f"--- case {number} ({name}, {seconds:.1f} s): {case}\n{wrong}", flush=True)
    for name, count in sorted(tried.items()):
        print(f"{name:14} {count:5} cases, {failed[name]} failed")
    print(f"{tried.total()} cases, {failed.total()} failed; the slowest, {slowest[1]}, took {slowest[0]:.1f} s", flush=True)
    return failed.total()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    asked = parser.parse_args()
    numbers = range(asked.first, asked.first + asked.cases)
    with tempfile.TemporaryDirectory() as temporary:
        sys.exit(run_cases(numbers, asked.seed, write_small_checkpoint(Path(temporary) / "checkpoint")) > 0)
