"""python -m idefics2_onnx.export.verification FOLDER CHECKPOINT whole|pieces [ADAPTER]: prints the verification as JSON."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path

from ..heap import set_heap
from ..source.source_model import SourceModel
from ..threads import help_this_thread_alone
from .compare import compare


def main(folder: str, checkpoint: str, how: str, adapter: str | None = None) -> None:
    set_heap()
    help_this_thread_alone()
    model = SourceModel.open(checkpoint, adapter=Path(adapter) if adapter else None)
    print(json.dumps(asdict(compare(Path(folder), model, how == "whole"))))  # noqa: T201  for the parent process


if __name__ == "__main__":
    main(*sys.argv[1:])
