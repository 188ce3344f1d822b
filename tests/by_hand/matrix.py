"""The tests in other versions of ONNX Runtime and transformers, each in a virtual environment of its own.

What is the same in all of them is taken from the environment that this is run in. Versions that are done are not run again, so that
it can be interrupted: remove the folder, .matrix, to begin anew.

    python tests/by_hand/matrix.py
"""

from __future__ import annotations

import argparse
import json
import os
import site
import subprocess
import sys
import venv
import xml.etree.ElementTree as ElementTree
from pathlib import Path

from idefics2_onnx.runtime.devices.onnx_runtime import NEWEST_TESTED, OLDEST

FOLDER = Path(".matrix")
RUNTIME = ["tests/graphs", "tests/promises", "tests/runtime"]
CASES = {
    f"onnxruntime=={'.'.join(map(str, OLDEST))}.0": RUNTIME,
    "onnxruntime==1.27.0": RUNTIME,
    "onnxruntime==1.30.0": RUNTIME,
    "onnxruntime==1.31.1": RUNTIME,
    f"onnxruntime=={'.'.join(map(str, NEWEST_TESTED))}.0": RUNTIME,
    "transformers==5.24.0": ["tests/export", "tests/graphs", "tests/promises"],
}
"""What is installed in place of what is here, and the tests that are run with it."""


def environment(package: str) -> Path:
    """The Python of a virtual environment that has this package, and everything else from here."""
    folder = FOLDER / package
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if not python.exists():
        venv.create(folder, with_pip=False, symlinks=os.name != "nt")
        (here,) = (path for path in site.getsitepackages() if path.startswith(sys.prefix) and path.endswith("site-packages"))
        (own,) = folder.rglob("site-packages")
        pip = [
            sys.executable,
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            "--no-deps",
            "--target",
            str(own),
        ]
        subprocess.run([*pip, package], check=True)
        (own / "here.pth").write_text(f"{here}\n")
    return python


def run(package: str, tests: list[str]) -> dict[str, int]:
    """Counts of the tests with a package."""
    python, report = environment(package), FOLDER / f"{package}.xml"
    command = [str(python), "-m", "pytest", "--numprocesses", "logical", "--dist", "loadfile", "-p", "no:cacheprovider"]
    with (FOLDER / f"{package}.log").open("w") as log:
        subprocess.run(
            [*command, f"--junitxml={report}", *tests],
            stdout=log,
            stderr=log,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            check=False,
        )
    (suite,) = ElementTree.parse(report).getroot()
    counts = {name: int(suite.attrib[name]) for name in ("tests", "failures", "errors", "skipped")}
    return {"passed": counts["tests"] - counts["failures"] - counts["errors"] - counts["skipped"]} | counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", help="Some of the packages, as in onnxruntime==1.32.0.")
    wanted = parser.parse_args().only or list(CASES)
    FOLDER.mkdir(exist_ok=True)
    results = FOLDER / "results.json"
    found = json.loads(results.read_text()) if results.exists() else {}
    for package in wanted:
        if package not in found:
            found[package] = run(package, CASES.get(package, RUNTIME))
            results.write_text(json.dumps(found, indent=2) + "\n")
        counts = found[package]
        print(
            f"{package:22}  {counts['passed']:5} passed  {counts['failures'] + counts['errors']:3} failed  {counts['skipped']:3} skipped"
        )
    if any(found[package]["failures"] + found[package]["errors"] for package in wanted):
        raise SystemExit(f"See the logs in {FOLDER}.")


if __name__ == "__main__":
    main()
