"""What the host reads, for a question about pictures: writes IDS and TILES to a folder, and prints the host's arguments.

python examples/c/inputs.py FOLDER INPUTS QUESTION [PICTURE]...
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
from idefics2_onnx import Idefics2Processor


def arguments(folder: Path, inputs: Path, question: str, pictures: list[str], most: int = 40) -> list[str]:
    """The host's, after the folder; files are written to `inputs`."""
    content = [{"type": "image", "image": picture} for picture in pictures] + [{"type": "text", "text": question}]
    processor = Idefics2Processor.from_pretrained(folder)
    found = processor.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=True, return_dict=True
    )
    manifest, options = (json.loads((folder / name).read_text()) for name in ("idefics2_onnx.json", "generation_config.json"))
    ends = options.get("eos_token_id") or []
    never = [ids[0] for ids in options.get("bad_words_ids") or [] if len(ids) == 1]
    found["input_ids"][0].tofile(inputs / "ids")
    result = [str(manifest["model"]["image_token_id"]), str(most), *map(_listed, (ends, never)), str(inputs / "ids")]
    if pictures:
        masks = found["pixel_attention_mask"][0].astype(bool)
        for number, (tile, mask) in enumerate(zip(found["pixel_values"][0], masks, strict=True)):
            own = tile[:, mask.any(1)][:, :, mask.any(0)]  # tiles are padded to the largest
            own.astype(np.float16 if manifest["dtype"] == "fp16" else np.float32).tofile(inputs / f"tile{number}")
            result += [*map(str, own.shape[1:]), str(inputs / f"tile{number}")]
    return result


def _listed(ids: int | list[int]) -> str:
    return ",".join(map(str, ids if isinstance(ids, list) else [ids])) or "-"


if __name__ == "__main__":
    folder, inputs, question, *pictures = sys.argv[1:]
    Path(inputs).mkdir(exist_ok=True)
    print(" ".join(arguments(Path(folder), Path(inputs), question, pictures)))
