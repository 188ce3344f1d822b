"""The demo model's tokenizer: whole words of its sentences, single characters of all it reads, bytes of everything else."""

from __future__ import annotations

from functools import cache

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from ..runtime.image_tokens import END_OF_UTTERANCE, FAKE_IMAGE, IMAGE
from .tasks import TASKS, case
from .texts import ITEMS

_SPACE = "\u2581"
_ROLES = ("User:", "Assistant:", "\n")
_CHARACTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,:;?!'\"{}()[]-+/%$&*=<>_@#"


@cache
def demo_tokenizer() -> Tokenizer:
    """A Unigram model over given pieces: fewest pieces win, so a word it has is one, and any other its characters."""
    basic = ["<unk>", "<s>", "</s>"]
    pieces = [
        *basic,
        *(f"<0x{byte:02X}>" for byte in range(256)),
        _SPACE,
        *_CHARACTERS,
        *_ROLES,
        *(_SPACE + word for word in _words()),
    ]
    tokenizer = Tokenizer(models.Unigram([(piece, -10.0) for piece in pieces], unk_id=0, byte_fallback=True))
    tokenizer.normalizer = normalizers.Replace(" ", _SPACE)
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(_SPACE, prepend_scheme="never")
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens(
        [AddedToken(token, normalized=False, special=True) for token in (*basic, FAKE_IMAGE, IMAGE, END_OF_UTTERANCE)]
    )
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return tokenizer


def _words() -> list[str]:
    """Words of questions, and of answers in sentences, without the marks after them; not those to look for in a picture."""
    words = set[str]()
    for task in TASKS:
        for number in range(300):
            for turn in case(task, "training", number).turns:
                text = turn.question
                if task not in ("reading", "small text", "receipt"):
                    text += " " + turn.answer
                words |= {word.strip(".,?:") for word in text.split() if not any(c.isdigit() for c in word)}
    return sorted(words - {"", *ITEMS})
