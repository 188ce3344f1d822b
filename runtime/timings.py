"""What a call took."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Timings:
    """Seconds, counts and bytes of one call, shared by the answers of a batch."""

    images: float = 0.0
    """Seconds of encoding images."""
    prefill: float = 0.0
    """Seconds of reading the prompts, up to the first tokens."""
    decode: float = 0.0
    """Seconds of all tokens after the first ones."""
    images_encoded: int = 0
    """Tiles that went through the vision graph: five per split image."""
    images_reused: int = 0
    """Tiles whose features were known."""
    prompt_tokens: int = 0
    """Tokens of the prompts that went through the decoder."""
    prompt_tokens_reused: int = 0
    """Tokens of the prompts whose keys and values were known."""
    new_tokens: int = 0
    """Tokens of all answers."""
    steps: int = 0
    """Decoder calls after the prompts."""
    drafted: int = 0
    """Tokens that prompt lookup proposed."""
    accepted: int = 0
    """Those of them that the model took."""
    first_tokens: int = 0
    """Answers, each with a first token that counts as prefill."""
    cache_bytes: int = 0
    """The key/value cache at its largest."""

    @property
    def seconds_per_token(self) -> float | None:
        """Decode seconds per token of one answer, None before a second token."""
        later = self.new_tokens - self.first_tokens
        return self.decode * self.first_tokens / later if later else None

    @property
    def tokens_per_second(self) -> float | None:
        """Decoded tokens of all answers per second, None before a second token."""
        later = self.new_tokens - self.first_tokens
        return later / self.decode if later and self.decode else None

    @property
    def acceptance_rate(self) -> float | None:
        """Accepted share of the drafted tokens, None without any."""
        return self.accepted / self.drafted if self.drafted else None
