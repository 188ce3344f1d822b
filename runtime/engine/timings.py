"""What a call took."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Timings:
    """Seconds, counts and bytes of one call, shared by the answers of a batch."""

    waiting: float = 0.0
    """Seconds before the prompt was begun, in a scheduler; images are read and encoded in that time."""
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

    def lines(self) -> list[str]:
        """For people: what was done, what was known already, and how long it took."""
        found = []
        if self.images_encoded or self.images_reused:
            found.append(f"images   {self.images:8.2f} s   {self.images_encoded} tiles encoded, {self.images_reused} known")
        speed = f", {self.prompt_tokens / self.prefill:.0f} tokens/s" if self.prefill else ""
        known = f", {self.prompt_tokens_reused} known" if self.prompt_tokens_reused else ""
        found.append(f"prompt   {self.prefill:8.2f} s   {self.prompt_tokens} tokens read{known}{speed}")
        answer = f"answer   {self.decode:8.2f} s   {self.new_tokens} tokens"
        if self.seconds_per_token and self.tokens_per_second:
            answer += f", {1000 * self.seconds_per_token:.1f} ms each, {self.tokens_per_second:.1f} tokens/s"
        found.append(answer)
        if self.acceptance_rate is not None:
            found.append(
                f"lookup   {self.steps:8} calls, {self.accepted} of {self.drafted} guesses right ({self.acceptance_rate:.0%})"
            )
        found.append(f"cache    {self.cache_bytes / 1e6:8.1f} MB")
        return found
