"""Streaming never shows half a character, a special token, or anything it takes back."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from idefics2_onnx.demo.random_model import byte_tokenizer
from idefics2_onnx.runtime.text.text_stream import TextStream
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers


def llama_like() -> Tokenizer:
    """Words, byte fallback and a decoder like Mistral's."""
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256)), "▁", "▁the", "▁cat", "s", ".", "你"]
    tokenizer = Tokenizer(
        models.BPE(vocab={t: i for i, t in enumerate(tokens)}, merges=[], byte_fallback=True, unk_token="<unk>")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    strip = decoders.Strip(content=" ", left=1)
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), strip])
    tokenizer.add_special_tokens([AddedToken(t, special=True) for t in ("<unk>", "<s>", "</s>", "<end_of_utterance>")])
    return tokenizer


TOKENIZERS = {"bytes": byte_tokenizer(), "llama": llama_like()}


@pytest.mark.parametrize("name", TOKENIZERS)
@settings(max_examples=300)
@given(data=st.data())
def test_pieces_join_to_the_text(name, data):
    tokenizer = TOKENIZERS[name]
    ids = data.draw(st.lists(st.integers(0, tokenizer.get_vocab_size() + 3), max_size=30))
    stream = TextStream(tokenizer)
    pieces = [stream.push(i) for i in ids]
    pieces.append(stream.close())
    assert "".join(pieces) == tokenizer.decode(ids, skip_special_tokens=True) == stream.text


@pytest.mark.parametrize("name", TOKENIZERS)
@pytest.mark.parametrize("text", ["naïve 👩‍🚀 café", "日本語のテキスト", "a😀b😀", "«été»"])
def test_valid_text_never_shows_half_a_character(name, text):
    tokenizer = TOKENIZERS[name]
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    stream = TextStream(tokenizer)
    pieces = [stream.push(i) for i in ids]
    assert len(ids) > len(text)  # several tokens a character
    assert not any("\ufffd" in piece for piece in pieces)
    assert "".join([*pieces, stream.close()]).strip() == text


def test_special_tokens_are_not_shown():
    tokenizer = TOKENIZERS["llama"]
    stream = TextStream(tokenizer)
    ids = [1, tokenizer.token_to_id("▁the"), tokenizer.token_to_id("<end_of_utterance>"), tokenizer.token_to_id("▁cat"), 2]
    assert [stream.push(i) for i in ids] == ["", "the", "", " cat", ""]
