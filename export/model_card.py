"""README.md of a model folder: the card that the hub shows, which whoever publishes the folder may edit."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TypeAlias

from huggingface_hub import ModelCardData, metadata_load

from ..graphs.contract import Manifest, graph_file
from ..graphs.errors import printable
from ..runtime.folder import MODEL_CARD, find_file
from ..runtime.outside.hub import HUB_ID
from .models.known import FAMILIES

_MAX_CARD = 1 << 20
"""Bytes of a checkpoint's card that is read for its licence."""
_LICENCE = ("license", "license_name", "license_link")
_LONGEST = 200
"""Characters of a licence's name or link."""


Sessions: TypeAlias = Mapping[str, tuple[str, str]]
"""File and dtype of each session of a folder for transformers.js."""


def write_model_card(folder: Path, manifest: Manifest, checkpoint: Path, sessions: Sessions | None = None) -> None:
    """Write the card of a finished folder, with the licence that the checkpoint's own card names, if it names one.

    `sessions` are those of a folder for transformers.js.
    """
    (folder / MODEL_CARD).write_text(model_card(manifest, _licence(checkpoint), sessions), encoding="utf-8")


def model_card(manifest: Manifest, licence: dict[str, str], sessions: Sessions | None = None) -> str:
    """The card's text."""
    on_hub = HUB_ID.fullmatch(manifest.source) is not None
    data = ModelCardData(
        library_name="transformers.js" if sessions else "idefics2-onnx",
        pipeline_tag="image-text-to-text",
        base_model=manifest.source if on_hub else None,
        base_model_relation="quantized" if on_hub else None,
        tags=["onnx", "onnxruntime", manifest.architecture, manifest.precision["decoder"]],
        license=licence.get("license"),
        license_name=licence.get("license_name"),
        license_link=licence.get("license_link"),
    )
    name = printable(manifest.source)
    source = f"[{name}](https://huggingface.co/{name})" if on_hub else f"`{name.replace('`', ' ')}`"
    title, model = _MARKDOWN.sub(r"\\\g<0>", name.rsplit("/", 1)[-1]), FAMILIES[manifest.architecture].title
    at = f" at commit {manifest.revision}" if manifest.revision else ""
    size = sum(entry.size for entry in manifest.files.values())
    files = [file for file, _ in sessions.values()] if sessions else map(graph_file, manifest.graphs)
    graphs = "\n".join(f"| {file} | {precision} |" for file, precision in zip(files, manifest.precision.values(), strict=True))
    use = _for_transformers_js(sessions) if sessions else _WITH_THIS_PACKAGE
    return f"""---
{data.to_yaml()}
---
# {title} for ONNX Runtime, {manifest.precision["decoder"]}

{model} as ONNX graphs, exported from {source}{at} by idefics2-onnx {manifest.tools["idefics2-onnx"]}:
{manifest.model.num_parameters:,} parameters in {size / 1e6:,.0f} MB. {_LICENCE_KNOWN if licence else _LICENCE_UNKNOWN}

| graph | weights |
|---|---|
{graphs}

The graphs compute in {manifest.dtype}, with {_ATTENTION[manifest.attention]}. {use}"""


_MARKDOWN = re.compile(r"[\\`*<>\[\]&]")
"""What a folder's name could begin something with in a line of Markdown."""
_WITH_THIS_PACKAGE = """To run them, without PyTorch:

```sh
pip install 'idefics2-onnx[cpu]'    # or [gpu]
idefics2-onnx run -m FOLDER photo.jpg "What is in this picture?"    # a folder, or owner/name on the hub
```

```python
from idefics2_onnx import load

model = load("FOLDER")
print(model.generate("What is in this picture?", images="photo.jpg").text)
```

`idefics2-onnx verify FOLDER` compares every file with its hash in `idefics2_onnx.json`, which also has the sizes that a host in
another language needs.
"""
_FOR_TRANSFORMERS_JS = """They have the names and inputs of transformers.js, under which they open as three sessions:

```js
import { LlavaForConditionalGeneration, PretrainedConfig } from '@huggingface/transformers';

const config = new PretrainedConfig({ ...YOUR_READ('FOLDER/config.json'), model_type: 'llava' });
const model = await LlavaForConditionalGeneration.from_pretrained('FOLDER', { config, dtype: DTYPES });
```

transformers.js 4.3 has no class and no processor for Idefics2. Its Llava has the same three sessions; tiles and the prompt's
image tokens are the app's to make, as `examples/javascript/host.mjs` of idefics2-onnx does. It makes one call of the
vision graph per prompt, so all tiles of a prompt must be of one size; float16 graphs take float16 pixels.
"""
_LICENCE_KNOWN = "The licence is that of the checkpoint."
_LICENCE_UNKNOWN = "The checkpoint's card names no licence: look there before you publish this folder."
_ATTENTION = {"fused": "ONNX Runtime's own operators for attention", "standard": "operators of ai.onnx only"}


def _for_transformers_js(sessions: Sessions) -> str:
    dtypes = ", ".join(f"{name}: '{dtype}'" for name, (_, dtype) in sessions.items())
    return _FOR_TRANSFORMERS_JS.replace("DTYPES", f"{{ {dtypes} }}")


def _licence(checkpoint: Path) -> dict[str, str]:
    """The licence that a checkpoint's card names; a stranger's text, of which strings of one line are taken."""
    try:
        card = find_file(checkpoint, MODEL_CARD)
        if card is None or card.stat().st_size > _MAX_CARD:
            return {}
        content = metadata_load(card) or {}
    except Exception:  # no card, or whatever a reader of YAML raises: without one the folder is as good
        return {}
    found = {name: content.get(name) for name in _LICENCE}
    return {name: printable(value[:_LONGEST]) for name, value in found.items() if isinstance(value, str) and value}
