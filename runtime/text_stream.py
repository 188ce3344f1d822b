"""Token by token to text, without ever showing half a character or taking a word back."""

from __future__ import annotations

import re

from tokenizers import Tokenizer

_BYTE_TOKEN = re.compile(r"<0x[0-9A-Fa-f]{2}>")


class TextStream:
    """Collects tokens and hands out the text that later tokens cannot change.

    The pieces of `push` and the one of `close` join to the text of all tokens, special ones left out.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer, self._ids, self._sent = tokenizer, list[int](), ""
        self._hidden = {i for i, token in tokenizer.get_added_tokens_decoder().items() if token.special}

    def push(self, token_id: int) -> str:
        """Take a token; returns the text that became certain, maybe none."""
        self._ids.append(token_id)
        token = self._tokenizer.id_to_token(token_id)
        if token is None or token_id in self._hidden:
            return ""
        # A run of byte tokens is decoded as a whole, hidden tokens inside it notwithstanding; and a byte-level token may end
        # inside a character.
        text = self.text
        return "" if _BYTE_TOKEN.fullmatch(token) or text.endswith("\ufffd") else self._send(text)

    def close(self) -> str:
        """The rest of the text."""
        return self._send(self.text)

    @property
    def text(self) -> str:
        """Text of all tokens so far."""
        return self._tokenizer.decode(self._ids, skip_special_tokens=True)

    def _send(self, text: str) -> str:
        piece, self._sent = text[len(self._sent) :], text
        return piece
