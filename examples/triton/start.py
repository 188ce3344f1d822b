"""Triton with the model repository beside this file: python examples/triton/start.py

Its environment is made on first use, in .venv-triton at the repository's root: nvidia-pytriton brings Triton itself, and wants an
older NumPy than the rest. Everything behind -- is for tritonserver, such as -- --http-port 9000. It listens to this machine only.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
PACKAGES = ("nvidia-pytriton==0.7.0", "numpy<2", "tritonclient[grpc]")


def environment(place: Path) -> Path:
    """Its Python, with this package in it."""
    python = place / "bin" / "python"
    if not (place / "ready").exists():
        venv.create(place, with_pip=True, clear=True)  # what an interrupted start left of it goes
        pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, *PACKAGES, f"{ROOT}[cpu,structured]"], check=True)  # noqa: S603  our own words
        (place / "ready").touch()
    return python


def main() -> None:
    place = Path(os.environ.get("TRITON_VENV", ROOT / ".venv-triton"))
    python = environment(place)
    (packages,) = (place / "lib").glob("python3*/site-packages")
    triton = packages / "pytriton" / "tritonserver"
    stub = triton / "python_backend_stubs" / packages.parent.name.removeprefix("python") / "triton_python_backend_stub"
    if not (place_of_stub := triton / "backends" / "python" / stub.name).exists():  # the one of this Python
        shutil.copy(stub, place_of_stub)
    more = sys.argv[sys.argv.index("--") + 1 :] if "--" in sys.argv else []
    command = [
        str(triton / "bin" / "tritonserver"),
        f"--model-repository={HERE / 'models'}",
        f"--backend-directory={triton / 'backends'}",
        "--http-address=127.0.0.1",
        "--grpc-address=127.0.0.1",
        "--metrics-address=127.0.0.1",
        *more,
    ]
    version = packages.parent.name
    paths = {
        "PYTHONPATH": str(packages),
        "LD_LIBRARY_PATH": os.pathsep.join([str(triton / "external_libs"), str(Path(sys.base_prefix, "lib"))]),
        "VIRTUAL_ENV": str(place),
        "PATH": os.pathsep.join([str(python.parent), os.environ["PATH"]]),
    }
    print(f"Triton, {version}: {' '.join(command)}", flush=True)
    os.execve(command[0], command, os.environ | paths)  # noqa: S606  signals are its own


if __name__ == "__main__":
    main()
