"""A small app to freeze: answers a question about a picture, with the model folder beside it or with the demo model.

app PICTURE QUESTION
"""

import sys
from pathlib import Path

from idefics2_onnx import Idefics2, Idefics2OnnxError

BESIDE = Path(sys.executable).parent / "model"
"""Where the app's own model folder goes, outside of what PyInstaller packs: 5 to 17 GB do not belong into it."""


def main() -> None:
    if len(sys.argv) != 3:
        raise SystemExit("Usage: app PICTURE QUESTION")
    picture, question = sys.argv[1:]
    try:
        with Idefics2.from_pretrained(BESIDE if BESIDE.is_dir() else None) as model:
            for piece in model.stream(question, images=[picture]):
                print(piece, end="", flush=True)
            print()
    except Idefics2OnnxError as error:
        raise SystemExit(f"Error: {error}") from error


if __name__ == "__main__":
    main()
