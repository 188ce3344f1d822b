"""Idefics2 in Triton's Python backend: an instance is a model with a scheduler, and answers many requests at once."""

from __future__ import annotations

import base64
import binascii
import json
import threading
from typing import Any

import numpy as np
import onnxruntime as ort
import triton_python_backend_utils as pb
from idefics2_onnx import Cancelled, Idefics2OnnxError, Overloaded, PromptError, Scheduler, load

_LOOKS = 0.05
"""Seconds between looks for clients that have left."""
_NOT_OPTIONS = {"self", "prompt", "images", "image_features", "num_return_sequences"}
"""What `submit` takes besides, or answers with more than one text."""


class TritonPythonModel:
    """`execute` hands requests to the scheduler and comes back; each is answered by a thread of its own."""

    def initialize(self, args: dict[str, str]) -> None:
        given = {name: value["string_value"] for name, value in json.loads(args["model_config"])["parameters"].items()}
        on_gpu = args["model_instance_kind"] == "GPU"
        device = f"cuda:{args['model_instance_device_id']}" if on_gpu else "cpu"
        options = ort.SessionOptions()
        options.intra_op_num_threads = int(given["threads"])
        self._model = load(given["model"] or None, device, session_options=options, spinning=False)
        self._scheduler = Scheduler(self._model, rows=int(given["rows"]), queue=int(given["queue"]))
        self._under_way: dict[Any, Any] = {}  # handles, by their senders
        self._asking = threading.Lock()  # a sender that is asked while another thread ends it takes Triton down
        self._closing = threading.Event()
        self._watching = threading.Thread(target=self._watch, daemon=True)
        self._watching.start()

    def execute(self, requests: list[Any]) -> None:
        for request in requests:
            sender = request.get_response_sender()
            try:
                prompt, images, options = _asked(request)
                handle = self._scheduler.submit(prompt, images, **options)
            except Exception as error:
                sender.send(_failure(error), flags=pb.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
                continue
            with self._asking:
                self._under_way[sender] = handle
            threading.Thread(target=self._answer, args=(sender, handle), daemon=True).start()

    def finalize(self) -> None:
        self._closing.set()
        self._watching.join()
        self._scheduler.close(30)
        self._model.close()

    def _answer(self, sender: Any, handle: Any) -> None:
        try:
            for piece in handle:
                with self._asking:
                    sender.send(_response(piece, ""))
            last = _response("", handle.result().finish_reason)
        except Exception as error:
            last = _failure(error)
        with self._asking:
            del self._under_way[sender]
            sender.send(last, flags=pb.TRITONSERVER_RESPONSE_COMPLETE_FINAL)

    def _watch(self) -> None:
        """End what nobody waits for: Triton says so only when it is asked."""
        while not self._closing.wait(_LOOKS):
            with self._asking:
                gone = [handle for sender, handle in self._under_way.items() if sender.is_cancelled()]
            for handle in gone:
                handle.cancel()


def _asked(request: Any) -> tuple[str, list[bytes], dict[str, Any]]:
    """Prompt, pictures as bytes, whatever they were called, and options."""
    given = {}
    for name in ("prompt", "images", "options"):
        tensor = pb.get_input_tensor_by_name(request, name)
        given[name] = [] if tensor is None else [bytes(each) for each in tensor.as_numpy().reshape(-1)]
    try:
        images = [base64.b64decode(image, validate=True) for image in given["images"]]
        options = json.loads(given["options"][0]) if given["options"] else {}
    except (binascii.Error, ValueError, RecursionError) as error:
        raise PromptError(f"images or options cannot be read ({error}). Give base64, and JSON.") from error
    if not isinstance(options, dict):
        raise PromptError("options is no JSON object. Give one, such as {}.")
    if wrong := options.keys() & _NOT_OPTIONS:
        raise PromptError(f"{', '.join(sorted(wrong))} cannot be among options here. Give one prompt, its pictures as images.")
    return given["prompt"][0].decode("utf-8", "replace"), images, options


def _response(text: str, finish_reason: str) -> Any:
    pieces = {"text": text, "finish_reason": finish_reason}
    return pb.InferenceResponse([pb.Tensor(name, np.array([value.encode()], np.object_)) for name, value in pieces.items()])


def _failure(error: Exception) -> Any:
    """The last response: what is wrong with a request is told, what is wrong in here is logged."""
    codes = {Overloaded: pb.TritonError.UNAVAILABLE, Cancelled: pb.TritonError.CANCELLED}
    code = codes.get(type(error), pb.TritonError.INVALID_ARG)
    message = str(error)
    if not isinstance(error, Idefics2OnnxError | TypeError):
        pb.Logger.log_error(repr(error))
        code, message = pb.TritonError.INTERNAL, "The model failed. Triton's log says more."
    return pb.InferenceResponse(error=pb.TritonError(message, code))
