"""Does what examples/serving/Dockerfile does, in an empty venv, and starts what it starts: for machines without Docker.

    python tests/by_hand/serving_steps.py [FOLDER]

The server answers, refuses who has no key, and ends with its answers at SIGTERM. Where there are strace and systemd-analyze, what it
asks of the system is held against the filter in idefics2-onnx.service, and it runs without memory that is both written and executed.
"""

from __future__ import annotations

import fnmatch
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import venv
from pathlib import Path

ROOT = Path(__file__).parents[2]
SERVING = ROOT / "examples" / "serving"
KEY, PORT = "a-key-of-this-script", 8741
WITHOUT_WRITABLE_CODE = (
    "import ctypes, os, sys; assert not ctypes.CDLL(None).prctl(65, 1, 0, 0, 0); os.execv(sys.argv[1], sys.argv[1:])"
)
"""PR_SET_MDWE, as MemoryDenyWriteExecute=yes has it, where the kernel knows it."""


def main(folder: Path) -> None:
    steps = (SERVING / "Dockerfile").read_text()
    copy_context(folder / "source")
    venv.create(folder / "venv", with_pip=True)
    python = folder / "venv" / "bin" / "python"
    for step in re.findall(r"^RUN (pip .+)$", steps, re.MULTILINE):
        command = step.replace("pip ", f"{python} -m pip --quiet --disable-pip-version-check ", 1)
        command = command.replace("/wheels", str(folder / "wheels")).replace("${DEVICE}", "cpu")
        print(f"$ {command}", flush=True)
        subprocess.run(["sh", "-c", command], cwd=folder / "source", check=True)
        shutil.copy(ROOT / "constraints.txt", folder / "wheels")
    entry, start = (json.loads(re.search(rf"^{name} (\[.+\])$", steps, re.MULTILINE)[1]) for name in ("ENTRYPOINT", "CMD"))
    health = json.loads(re.search(r"^    CMD (\[.+\])$", steps, re.MULTILINE)[1])
    model = subprocess.check_output(
        [python, "-c", "from idefics2_onnx.runtime.folder import DEMO; print(DEMO)"], text=True
    ).strip()
    command = [str(python.with_name(entry[0])), *(model if one == "/model" else one for one in start), "--port", str(PORT)]
    health = [str(python), *(one.replace(":8000", f":{PORT}") for one in health[1:])]

    refused = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment())
    assert refused.returncode == 2, refused
    print(refused.stderr.splitlines()[-1])
    command = ["127.0.0.1" if one == "0.0.0.0" else one for one in command]  # here there is no container around it
    served(command, health, folder)
    served([str(python), "-c", WITHOUT_WRITABLE_CODE, *command], health, folder)
    if shutil.which("strace") and shutil.which("systemd-analyze"):
        log = folder / "calls"
        served(["strace", "-D", "-f", "-qq", "-o", str(log), *command], health, folder)
        time.sleep(2)  # strace is another process
        asked = set(re.findall(r"^\d+ +(\w+)\(", log.read_text(errors="replace"), re.MULTILINE))
        assert len(asked) > 30, asked
        print(f"{len(asked)} kinds of system calls, not among the service's: {sorted(asked - allowed()) or 'none'}")
        assert asked <= allowed()


def environment(**more: str) -> dict[str, str]:
    own = {name: value for name, value in os.environ.items() if not name.startswith(("IDEFICS2", "PYTHON"))}
    line = re.search(r"^ENV (.+)$", (SERVING / "Dockerfile").read_text(), re.MULTILINE)[1]
    return {**own, "OMP_NUM_THREADS": "1", **dict(one.split("=", 1) for one in line.split()), **more}


def copy_context(target: Path) -> None:
    """The files that Dockerfile.dockerignore lets through."""
    lines = (SERVING / "Dockerfile.dockerignore").read_text().split()
    kept = [line[1:] for line in lines if line.startswith("!")]
    for name in subprocess.check_output(["git", "ls-files"], cwd=ROOT, text=True).splitlines():
        parents = [name, *map(str, Path(name).parents)]
        if any(fnmatch.fnmatch(one, pattern) and one.count("/") == pattern.count("/") for one in parents for pattern in kept):
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, target / name)


def served(command: list[str], health: list[str], folder: Path) -> None:
    server = subprocess.Popen(command, cwd=folder, env=environment(IDEFICS2_ONNX_API_KEY=KEY))
    try:
        end = time.monotonic() + 120
        while subprocess.run(health, stderr=subprocess.DEVNULL).returncode:
            assert server.poll() is None, "the server ended"
            assert time.monotonic() < end, "it was not ready in 120 seconds"
            time.sleep(0.2)
        try:
            ask("")
            raise AssertionError("it answers without a key")
        except urllib.error.HTTPError as error:
            assert error.code == 401
        print(ask(KEY))
        server.send_signal(signal.SIGTERM)
        assert server.wait(45) == 0, server.returncode
    finally:
        if server.poll() is None:
            server.kill()


def ask(key: str) -> str:
    schema = {"type": "object", "properties": {"star": {"type": "boolean"}}, "required": ["star"], "additionalProperties": False}
    answer = {"type": "json_schema", "json_schema": {"name": "star", "schema": schema}}
    body = {"messages": [{"role": "user", "content": "Is there a star?"}], "max_tokens": 20, "response_format": answer}
    headers = {"content-type": "application/json", "authorization": f"Bearer {key}"}
    request = urllib.request.Request(f"http://127.0.0.1:{PORT}/v1/chat/completions", json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=60) as response:
        return json.load(response)["choices"][0]["message"]["content"]


def allowed() -> set[str]:
    """What the service's SystemCallFilter lets through."""
    found: set[str] = set()
    for line in re.findall(r"^SystemCallFilter=(.+)$", (SERVING / "idefics2-onnx.service").read_text(), re.MULTILINE):
        names = {call for group in line.lstrip("~").split() for call in calls(group)}
        found = found - names if line.startswith("~") else found | names
    return found


def calls(group: str) -> set[str]:
    """The system calls of a group, of the groups in it, too."""
    if not group.startswith("@"):
        return {group}
    lines = subprocess.check_output(["systemd-analyze", "syscall-filter", group], text=True).splitlines()[1:]
    return {call for line in lines if (name := line.strip()) and not name.startswith("#") for call in calls(name)}


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as own:
            main(Path(own))
