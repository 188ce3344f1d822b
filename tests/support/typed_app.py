"""An app as people write them, checked by mypy in strict mode: what each call returns is what it says. `assert_type` is read by
mypy alone; test_typed_app.py runs the whole.
"""

from __future__ import annotations

from pathlib import Path
from typing import assert_type

import numpy as np
from idefics2_onnx import Idefics2Processor, Outcome
from idefics2_onnx.runtime.generation.answer import Generation
from idefics2_onnx.runtime.model import Idefics2
from numpy.typing import NDArray


def answers(folder: Path | None, picture: Path) -> list[str]:
    """One answer, several, a batch, a stream, a chat, and the reference's flow."""
    with Idefics2.from_pretrained(folder) as model:
        one = assert_type(model.generate("What is it?", images=[picture], max_new_tokens=3), Generation)
        several = model.generate("What is it?", picture, num_return_sequences=2, do_sample=True, seed=0, max_new_tokens=3)
        assert_type(several, Generation | list[Generation])
        batch = assert_type(model.generate(["What?", "Where?"], [[picture], [picture]], max_new_tokens=3), list[Generation])
        pieces = list(model.stream("What is it?", picture, max_new_tokens=3))
        for outcome in model.map([picture], "What is it?", max_new_tokens=3):
            assert_type(outcome, Outcome[Path])
            assert outcome.answer is not None
            assert outcome.answer.token_ids == one.token_ids
        turn = assert_type(model.chat(max_new_tokens=3).send("What is it?", picture), Generation)
        processor: Idefics2Processor = model.processor
        turn_of_text = {"role": "user", "content": [{"type": "text", "text": "Hi"}]}
        text = processor.apply_chat_template([turn_of_text], add_generation_prompt=True)
        inputs = processor(text=text)
        ids: NDArray[np.int64] = inputs.input_ids
        whole = assert_type(model.generate(input_ids=ids, max_new_tokens=3), NDArray[np.int64])
        embeds: NDArray[np.float32] = np.zeros((1, 2, model.engine.sizes.hidden_size), np.float32)
        alone = assert_type(model.generate(inputs_embeds=embeds, max_new_tokens=3), NDArray[np.int64])
    found = [one, turn, *batch, *(several if isinstance(several, list) else [several])]
    return [answer.text for answer in found] + ["".join(pieces), *processor.batch_decode(whole), *processor.batch_decode(alone)]


async def later(model: Idefics2, picture: Path) -> tuple[str, list[str]]:
    """The same for servers."""
    one = await model.agenerate("What is it?", picture, max_new_tokens=3)
    several = await model.agenerate(["What?", "Where?"], max_new_tokens=3)
    return assert_type(one, Generation).text, [answer.text for answer in assert_type(several, list[Generation])]
