"""The reference's documented flow, line for line, with our classes in the reference's place."""

from __future__ import annotations

import pytest
from parity import photos
from transformers import AutoTokenizer, Idefics2Processor
from transformers.models.idefics2.image_processing_pil_idefics2 import Idefics2ImageProcessorPil


def documented_flow(processor, model, tokenize, tensors):
    """The example in transformers' Idefics2ForConditionalGeneration.forward, with other pictures."""
    image1, image2, image3 = photos()
    BAD_WORDS_IDS = [tokenize("<image>"), tokenize("<fake_token_around_image>")]  # noqa: N806

    # Create inputs
    prompts = [
        "<image>In this image, we can see the city of New York, and more specifically the Statue of Liberty.<image>In this image,",
        "In which city is that bridge located?<image>",
    ]
    images = [[image1, image2], [image3]]
    inputs = processor(images=images, text=prompts, padding=True, return_tensors=tensors)

    # Generate
    generated_ids = model.generate(**inputs, bad_words_ids=BAD_WORDS_IDS, max_new_tokens=20)
    generated_texts = processor.batch_decode(generated_ids, skip_special_tokens=True)
    return generated_ids, generated_texts


@pytest.mark.parametrize("name", ["plain", "window"])
def test_documented_flow(name, model, reference, checkpoint):
    ours, theirs = model(name), reference(name).model
    tokenizer = AutoTokenizer.from_pretrained(checkpoint(name))
    latents = theirs.config.perceiver_config.resampler_n_latents
    processor = Idefics2Processor(Idefics2ImageProcessorPil.from_pretrained(checkpoint(name)), tokenizer, image_seq_len=latents)

    def ids(text):
        return tokenizer(text, add_special_tokens=False).input_ids

    expected_ids, expected = documented_flow(processor, theirs, ids, "pt")
    found_ids, found = documented_flow(ours.processor, ours, ids, "np")
    assert found_ids.tolist() == expected_ids.tolist()
    assert found == expected
    assert all(text.strip().startswith("In ") for text in found)


def test_chat_flow(model, checkpoint):
    """The modelGPU's flow: messages → template → processor → generate."""
    ours = model("plain")
    image1, image2, _ = photos()
    messages = [
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What do we see in this image?"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "A cat."}]},
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "And how about this image?"}]},
    ]
    prompt = ours.processor.apply_chat_template(messages, add_generation_prompt=True)
    assert prompt == (
        "User:<image>What do we see in this image?<end_of_utterance>\n"
        "Assistant: A cat.<end_of_utterance>\n"
        "User:<image>And how about this image?<end_of_utterance>\nAssistant:"
    )
    inputs = ours.processor(text=prompt, images=[image1, image2], return_tensors="np")
    width = inputs["input_ids"].shape[1]
    answer = ours.generate(**inputs, max_new_tokens=10)[0, width:]
    assert ours.generate(messages, [image1, image2], max_new_tokens=10).token_ids == answer.tolist()
    messages[0]["content"][0]["image"], messages[2]["content"][0]["image"] = image1, image2
    assert ours.generate(messages, max_new_tokens=10).token_ids == answer.tolist()
    assert "".join(ours.stream(messages, max_new_tokens=10)) == ours.processor.decode(answer, skip_special_tokens=True)
