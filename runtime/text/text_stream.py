"""Token by token to text, without ever showing half a character, taking a word back, or going past a stop string."""

from __future__ import annotations

import re
from collections.abc import Sequence
from copy import copy

from tokenizers import Tokenizer

from .tokenizer import decode

_BYTE_TOKEN = re.compile(r"<0x[0-9A-Fa-f]{2}>")


class TextStream:
    """Collects tokens and hands out the text that later tokens cannot change.

    The pieces of `push` and the one of `close` join to the text of all tokens, special ones left out, up to the first stop
    string.

    Attributes:
        text: what is certain so far.
        stopped: whether a stop string was met.
    """

    def __init__(self, tokenizer: Tokenizer, stop_strings: Sequence[str] = ()) -> None:
        self._tokenizer, self._stops = tokenizer, stop_strings
        special = {i: token.content for i, token in tokenizer.get_added_tokens_decoder().items() if token.special}
        self._hidden, self._ends = special.keys(), {i for i, content in special.items() if content in stop_strings}
        self.text, self.stopped, self._sent = "", False, 0
        # Only tokens since the last certain one are decoded again; that one stands in front, since decoders treat the first
        # token of a text otherwise than later ones.
        self._window: list[int] = []
        self._certain = ""

    def fork(self) -> TextStream:
        """A copy that goes its own way."""
        copied = copy(self)
        copied._window = list(self._window)
        return copied

    def push(self, token_id: int) -> str:
        """Take a token; returns the text that became certain, maybe none."""
        if token_id in self._ends:
            piece = self.close()
            self.stopped = True
            return piece
        self._window.append(token_id)
        token = self._tokenizer.id_to_token(token_id)
        if token is None or token_id in self._hidden:
            return ""
        text = self._decoded()
        if self._cut(text):
            return self._send(len(self.text))
        # A run of byte tokens is decoded as a whole, hidden tokens inside it notwithstanding; and a byte-level token may end
        # inside a character.
        if not _BYTE_TOKEN.fullmatch(token) and not text.endswith("\ufffd"):
            self.text, self._window = text, [token_id]
            self._certain = decode(self._tokenizer, [token_id], True)
        return self._send(len(self.text) - self._held_back())

    def close(self) -> str:
        """The rest of the text."""
        if not self.stopped:
            self.text, self._window, self._certain = self._decoded(), [], ""
        return self._send(len(self.text))

    def _decoded(self) -> str:
        """Text of all tokens so far."""
        return self.text + decode(self._tokenizer, self._window, True)[len(self._certain) :]

    def _cut(self, text: str) -> bool:
        """Look for the first stop string in a text whose start was looked at before; keep what is in front of it."""
        found = [text.find(stop, max(0, len(self.text) - len(stop) + 1)) for stop in self._stops]
        if all(at < 0 for at in found):
            return False
        self.text, self.stopped = text[: min(at for at in found if at >= 0)], True
        return True

    def _held_back(self) -> int:
        """Characters at the end that may be the start of a stop string."""
        longest = max(map(len, self._stops), default=1) - 1
        for length in range(min(longest, len(self.text)), 0, -1):
            if any(stop.startswith(self.text[-length:]) for stop in self._stops):
                return length
        return 0

    def _send(self, end: int) -> str:
        piece, self._sent = self.text[self._sent : end], max(end, self._sent)
        return piece
