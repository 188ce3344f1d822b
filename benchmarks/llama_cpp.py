"""Beside llama.cpp, Idefics2's Mistral decoder alone: the same weights, a prompt of 384 tokens, and single steps after it.

    python benchmarks/llama_cpp.py CHECKPOINT FOLDER --peer PYTHON [--quant Q4_0|Q4_K_M|Q8_0] [--rounds 3] [--json FILE]

FOLDER is what CHECKPOINT was exported to. PYTHON, 3.11 or later, has llama.cpp built for this processor (ten minutes on a core):

    CMAKE_ARGS="-DGGML_NATIVE=ON -DLLAVA_BUILD=OFF" PYTHON -m pip install llama-cpp-python==0.3.36 gguf==0.19.0

The decoder is written as GGUF in fp16, and llama.cpp quantises that by its own recipe; both files lie where temporary ones do
(TMPDIR). First, the logits of both at each position of the prompt and after a step are held beside those of the fp16 GGUF. Where
FOLDER is not quantised (demo/checkpoint with demo/model, say), more than 3 % between them ends the run, so that a GGUF that was
written wrongly does not pass. Then, in rounds, the two take turns as processes of their own, each with a thread per core and its
defaults otherwise.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

PROMPT, NEXT, STEPS, CAPACITY = np.random.default_rng(0).integers(3, 200, 384), 17, 8, 1024
"""Tokens; the one after them; steps in a round; tokens that a cache holds, as in cpu.py."""
EXACT, QUANTISED = 0.03, 0.5
"""How far logits may be from the fp16 GGUF's, relative: of folders in fp16 or fp32, and of quantised ones."""
SIZES = {
    "block_count": "num_hidden_layers", "context_length": "max_position_embeddings", "embedding_length": "hidden_size",
    "feed_forward_length": "intermediate_size", "head_count": "num_attention_heads", "head_count_kv": "num_key_value_heads",
    "key_length": "head_dim", "value_length": "head_dim", "rope_dimension_count": "head_dim",
    "layer_norm_rms_eps": "rms_norm_eps", "vocab_size": "vocab_size",
}  # fmt: skip
"""What GGUF calls what a text config has."""


def library() -> Any:
    """llama.cpp's C interface; of its log, warnings and errors are shown."""
    import llama_cpp

    def show(level: int, text: bytes, _: Any) -> None:
        if level in (3, 4):
            sys.stderr.write(text.decode())

    llama_cpp.shown = llama_cpp.llama_log_callback(show)  # held there, since C does not hold it
    llama_cpp.llama_log_set(llama_cpp.shown, None)
    return llama_cpp


def write(checkpoint: str, config: str, exact: str, quantised: str, quantisation: str, threads: str) -> None:
    """The decoder as GGUF: matrices in fp16 and vectors in fp32, one in memory at a time; and quantised."""
    import gguf
    from gguf.utility import SafetensorsLocal

    text = json.loads(config)
    heads = {"q_proj": text["num_attention_heads"], "k_proj": text["num_key_value_heads"]}
    names, tensors = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, text["num_hidden_layers"]), {}
    for path in sorted(Path(checkpoint).glob("*.safetensors")):
        for name, tensor in SafetensorsLocal(path).tensors.items():
            if name.startswith(("model.text_model.", "lm_head.")):
                own = name.replace("text_model.", "").removesuffix(".weight")
                tensors[f"{names.get_name(own)}.weight"] = own.rpartition(".")[2], tensor
    writer = gguf.GGUFWriter(exact, "llama")
    for key, of_config in SIZES.items():
        getattr(writer, f"add_{key}")(text[of_config])
    writer.add_rope_freq_base(text["rope_parameters"]["rope_theta"])
    writer.add_tokenizer_model("none")
    for name, (_, tensor) in tensors.items():
        kind = np.dtype(np.float32 if len(tensor.shape) == 1 else np.float16)
        writer.add_tensor_info(name, tensor.shape, kind, int(np.prod(tensor.shape)) * kind.itemsize)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for own, tensor in tensors.values():
        stored = tensor.mmap_bytes()
        if tensor.dtype == "BF16":
            array = (stored.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
        else:
            array = stored.view({"F16": np.float16, "F32": np.float32}[tensor.dtype])
        array = array.reshape(tensor.shape).astype(np.float32 if len(tensor.shape) == 1 else np.float16)
        if own in heads:  # llama.cpp rotates neighbours, Hugging Face the halves of a head
            array = array.reshape(heads[own], 2, text["head_dim"] // 2, -1).swapaxes(1, 2).reshape(tensor.shape)
        writer.write_tensor_data(array)
    writer.close()
    llama_cpp = library()
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype, params.nthread = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{quantisation}"), int(threads)
    if llama_cpp.llama_model_quantize(exact.encode(), quantised.encode(), ctypes.byref(params)):
        raise SystemExit(f"llama.cpp did not quantise the decoder to {quantisation}.")


def ours(folder: str, _: str) -> Any:
    """A model folder."""
    from cpu import Ours

    class Decoder(Ours):
        versions = f"idefics2-onnx {version('idefics2-onnx')}, onnxruntime {version('onnxruntime')}"

        def logits(self) -> NDArray[np.float32]:
            """Of all positions of the prompt and of a step, [385, vocab]."""
            self.prompt()  # which makes a cache and what steps with it
            self.cache.tokens[0] = 0
            new, positions = np.array([len(PROMPT)]), np.arange(len(PROMPT))[None]
            found = self.engine.decode(self.engine.embed(self.ids), new, self.cache, positions, graph="prompt")[0]
            return np.concatenate([found, self.stepper([NEXT])])

    decoder = Decoder(folder, "cpu")
    decoder.ids = PROMPT[None]
    return decoder


class Theirs:
    """llama.cpp, by its C interface."""

    def __init__(self, file: str, threads: str) -> None:
        start = time.perf_counter()
        self.llama = llama_cpp = library()
        model = llama_cpp.llama_model_load_from_file(file.encode(), llama_cpp.llama_model_default_params())
        params = llama_cpp.llama_context_default_params()
        params.n_ctx, params.n_threads, params.n_threads_batch = CAPACITY, int(threads), int(threads)
        self.context = llama_cpp.llama_init_from_model(model, params)
        self.opening = time.perf_counter() - start
        self.vocab = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))
        built = llama_cpp.llama_print_system_info().decode().strip()
        self.versions = (
            f"llama.cpp {llama_cpp.llama_version().decode()}, llama-cpp-python {version('llama-cpp-python')} ({built})"
        )

    def prompt(self) -> None:
        self._decode(0, PROMPT.tolist())

    def step(self) -> None:
        self._decode(len(PROMPT), [NEXT])

    def logits(self) -> NDArray[np.float32]:
        """Of all positions of the prompt and of a step, [385, vocab]."""
        return np.concatenate([self._decode(0, PROMPT.tolist(), everywhere=True), self._decode(len(PROMPT), [NEXT])])

    def _decode(self, held: int, ids: list[int], everywhere: bool = False) -> NDArray[np.float32]:
        """Logits [1, vocab] after the first `held` tokens and these, or those at each of these, [tokens, vocab]."""
        self.llama.llama_memory_seq_rm(self.llama.llama_get_memory(self.context), 0, held, -1)
        tokens = (ctypes.c_int32 * len(ids))(*ids)  # the batch only points there
        batch = self.llama.llama_batch_get_one(tokens, len(ids))
        if everywhere:
            batch.logits = (ctypes.c_int8 * len(ids))(*[1] * len(ids))
        if self.llama.llama_decode(self.context, batch):
            raise SystemExit("llama.cpp did not run the decoder.")
        rows = len(ids) if everywhere else 1
        return np.ctypeslib.as_array(self.llama.llama_get_logits(self.context), (rows, self.vocab)).copy()


def work(kind: str, source: str, threads: str) -> None:
    """Do what lines of stdin name, and say how long it took and the most memory until then; logits go to a file."""
    contestant: Any = {"ours": ours, "theirs": Theirs}[kind](source, threads)
    print(json.dumps({"opening": contestant.opening, "versions": contestant.versions}), flush=True)
    for line in sys.stdin:
        task, _, path = line.strip().partition(" ")
        start = time.perf_counter()
        found = getattr(contestant, task)()
        seconds = time.perf_counter() - start
        if path:
            np.save(path, found)
        status = Path("/proc/self/status").read_text()
        print(json.dumps({"seconds": seconds, "memory": int(status.split("VmHWM:")[1].split()[0]) * 1024}), flush=True)


class Worker:
    """A contestant's process."""

    def __init__(self, python: list[str], kind: str, source: Path, threads: int) -> None:
        command = [*python, __file__, "--worker", kind, str(source), str(threads)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.opened = self._line()

    def ask(self, task: str) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{task}\n")
        self._process.stdin.flush()
        return self._line()

    def logits(self, place: str) -> NDArray[np.float32]:
        self.ask(f"logits {place}/logits.npy")
        found: NDArray[np.float32] = np.load(f"{place}/logits.npy")
        return found

    def end(self) -> None:
        self._process.communicate()

    def _line(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit("A contestant ended early; see above.")
        found: dict[str, Any] = json.loads(line)
        return found


def beside(logits: NDArray[np.float32], exact: NDArray[np.float32]) -> dict[str, float]:
    """How far logits are from exact ones."""
    return {
        "relative difference": float(np.linalg.norm(logits - exact) / np.linalg.norm(exact)),
        "same next token": float(np.mean(logits.argmax(1) == exact.argmax(1))),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--peer", required=True)
    parser.add_argument("--quant", choices=["Q4_0", "Q4_K_M", "Q8_0"], default="Q4_0")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()

    from idefics2_onnx.runtime.devices.machine import Machine
    from transformers import Idefics2Config

    here, text = Machine.here(), Idefics2Config.from_pretrained(chosen.checkpoint).text_config.to_dict()
    text["head_dim"] = text.get("head_dim") or text["hidden_size"] // text["num_attention_heads"]
    if text["rope_parameters"]["rope_type"] != "default":
        raise SystemExit(f"The decoder's rope is {text['rope_parameters']['rope_type']}, which this does not write.")
    peer = [chosen.peer, "-P"]  # without this file's folder, in which llama_cpp is this file
    bound = EXACT if json.loads((chosen.folder / "idefics2_onnx.json").read_text())["quantisation"] is None else QUANTISED
    with tempfile.TemporaryDirectory() as place:
        exact, quantised = Path(place) / "exact.gguf", Path(place) / "quantised.gguf"
        arguments = [chosen.checkpoint, json.dumps(text), str(exact), str(quantised), chosen.quant, str(here.cores)]
        subprocess.run([*peer, __file__, "--write", *arguments], check=True)
        reference = Worker(peer, "theirs", exact, here.cores)
        logits = reference.logits(place)
        reference.end()
        both = {
            "ours": Worker([sys.executable], "ours", chosen.folder, here.cores),
            "llama.cpp": Worker(peer, "theirs", quantised, here.cores),
        }
        found: dict[str, Any] = {
            "machine": {"processor": here.processor, "cores": here.cores, "instructions": here.instructions},
            "versions": {name: worker.opened["versions"] for name, worker in both.items()},
            "layers": text["num_hidden_layers"],
            "prompt": len(PROMPT),
            "quantisation": chosen.quant,
            "bytes": {"fp16": exact.stat().st_size, chosen.quant: quantised.stat().st_size},
            "logits beside llama.cpp's in fp16": {name: beside(worker.logits(place), logits) for name, worker in both.items()},
        }
        print(json.dumps(found, indent=1))
        difference = found["logits beside llama.cpp's in fp16"]["ours"]["relative difference"]
        if not difference <= bound:  # NaN is not, either
            raise SystemExit(f"Logits differ by {difference:.2g} of their size, and {bound} is expected at most.")
        exact.unlink()
        results: dict[str, Any] = {
            name: {"opening": worker.opened["opening"], "seconds": {"prompt": [], "step": []}} for name, worker in both.items()
        }
        for number in range(chosen.rounds + 1):  # the first one warms up
            for name, worker in both.items():
                time.sleep(0.3)  # until the other's threads have stopped waiting busily
                prompt = worker.ask("prompt")
                steps = [worker.ask("step") for _ in range(STEPS)]
                if number:
                    results[name]["seconds"]["prompt"].append(prompt["seconds"])
                    results[name]["seconds"]["step"].append(statistics.median(step["seconds"] for step in steps))
                results[name]["memory"] = steps[-1]["memory"]
        for worker in both.values():
            worker.end()
    for name, result in results.items():
        print(f"{name:10} opens in {result['opening']:.1f} s, {result['memory'] / 1e9:.2f} GB")
        for task, seconds in result["seconds"].items():
            ratios = [a / b for a, b in zip(results["llama.cpp"]["seconds"][task], seconds, strict=True)]
            print(f"  {task:7} {statistics.median(seconds):9.4f} s   {statistics.median(ratios):5.2f} × as fast")
    if chosen.json:
        chosen.json.write_text(json.dumps(found | {"results": results}, indent=1) + "\n")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        work(*sys.argv[2:])
    elif sys.argv[1:2] == ["--write"]:
        write(*sys.argv[2:])
    else:
        main()
