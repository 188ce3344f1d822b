"""Freeze examples/frozen with PyInstaller, try it away from any Python, and print what it weighs (`make test-frozen`).

frozen_app.py FOLDER: where to build. Exits with 1 where an answer is not the package's or a sentence is missing.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

from idefics2_onnx import Idefics2
from idefics2_onnx.runtime.folder import DEMO

ROOT = Path(__file__).parents[2]
APP, PICTURE = ROOT / "examples" / "frozen" / "app.py", ROOT / "examples" / "shapes.png"
QUESTION = "What is in the picture?"
LEFT_OUT = ("huggingface_hub", "PIL._avif")
"""What an app with a model folder of its own does without; docs/embedding.md says what then fails."""
LIBPYTHON = sysconfig.get_config_var("INSTSONAME") or ""


def frozen(folder: Path, *options: str) -> Path:
    """Build; the folder that an app is."""
    command = [sys.executable, "-m", "PyInstaller", "--noconfirm", "--log-level", "ERROR", "--name", "app", *options]
    places = ["--workpath", folder / "work", "--distpath", folder / "dist", "--specpath", folder]
    subprocess.run([*command, *places, APP], check=True)
    return folder / "dist" / "app"


def megabytes(folder: Path) -> float:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink()) / 1e6


def asked(app: Path, picture: Path = PICTURE) -> tuple[str, str]:
    """What it prints on stdout and stderr in an environment with nothing in it."""
    with tempfile.TemporaryDirectory() as elsewhere:
        run = subprocess.run([app / "app", picture, QUESTION], capture_output=True, text=True, cwd=elsewhere, env={"PATH": ""})
    return run.stdout, run.stderr


def check(what: str, holds: bool, seen: object) -> None:
    if not holds:
        raise SystemExit(f"{what}: no. It said {seen}.")
    print(f"{what}: yes")


def main(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    with Idefics2.from_pretrained() as model:
        expected = model.generate(QUESTION, images=[PICTURE]).text + "\n"

    whole = Path(shutil.move(frozen(folder / "whole"), folder / "moved"))
    print(f"with the hook: {megabytes(whole):.1f} MB")
    answer = asked(whole)
    check("moved, and without Python on PATH, it answers as the package does", answer == (expected, ""), answer)
    demo = whole / "_internal" / "idefics2_onnx" / "demo"
    shutil.move(demo / "model", folder / "model")
    answer = asked(whole)
    check(
        "without the demo model it says what is missing",
        "The demo model that comes with the package is missing" in answer[1],
        answer,
    )

    small = frozen(folder / "small", *(word for name in LEFT_OUT for word in ("--exclude-module", name)))
    print(f"without {' and '.join(LEFT_OUT)}: {megabytes(small):.1f} MB")
    shutil.rmtree(small / "_internal" / "idefics2_onnx" / "demo")
    print(f"and without the demo model: {megabytes(small):.1f} MB")
    if (library := small / "_internal" / LIBPYTHON).is_file() and shutil.which("strip"):
        subprocess.run(["strip", library], check=True)
        print(f"and with {LIBPYTHON} stripped: {megabytes(small):.1f} MB")
    shutil.copytree(DEMO, small / "model")
    answer = asked(small)
    check("it answers with the model folder beside it", answer == (expected, ""), answer)


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
