"""Write the processor's goldens from transformers, for environments that have no transformers to compare with.

    PYTHONPATH=tests/support python tests/by_hand/make_goldens.py        # rewrites tests/support/golden_files/processor.json

Each golden holds the hash of its inputs, and shapes, dtypes and checksums of what the reference makes of them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from goldens import GOLDENS, cases, digest, options_of, summary
from idefics2_onnx.runtime.folder import DEMO
from transformers import AutoTokenizer, Idefics2Processor
from transformers.models.idefics2.image_processing_pil_idefics2 import Idefics2ImageProcessorPil


def main() -> None:
    tokenizer = AutoTokenizer.from_pretrained(DEMO)
    latents = json.loads((DEMO / "processor_config.json").read_text())["image_seq_len"]
    found: list[dict[str, Any]] = []
    for case in cases():
        processor = Idefics2Processor(Idefics2ImageProcessorPil(**options_of(case)), tokenizer, latents)
        images = case["images"] if any(case["images"]) else None
        inputs = processor(text=case["texts"], images=images, padding=True, return_tensors="np")
        found.append({"inputs": digest(case), "outputs": {name: summary(array) for name, array in inputs.items()}})
    Path(GOLDENS).write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
