"""PyInstaller's hook: what of the package it cannot see by itself, and what no frozen app needs.

Nothing is hidden of the modules: lazy imports stand in the code, too, under TYPE_CHECKING, which PyInstaller reads.
"""

from idefics2_onnx.runtime.outside.requirement import requirements
from PyInstaller.utils.hooks import collect_data_files, copy_metadata

datas = collect_data_files(
    "idefics2_onnx",
    includes=[
        "graphs/*.onnx",  # chooses tokens on GPUs
        "demo/model/*",  # opened by from_pretrained() without a name
        "runtime/server/page/*",
    ],
)
# What `doctor` and errors about packages read: this package's own metadata, and that of each package that it names and finds.
datas += copy_metadata("idefics2-onnx")
for extra in ("", "cpu", "gpu", "openvino", "structured", "serve"):
    for each in requirements(extra):
        if each.found:
            datas += copy_metadata(each.name)

# The command line exports with these, which takes a checkpoint and gigabytes of packages: nothing that an app ships.
excludedimports = ["matplotlib", "onnx", "onnx_ir", "onnxscript", "safetensors", "torch", "transformers"]
