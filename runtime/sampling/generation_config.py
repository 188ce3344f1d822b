"""A checkpoint's generation_config.json as the reference reads it, odd values included.

Source: transformers 5.23, GenerationConfig and GenerationMixin.generate.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from ..checks import is_number, is_whole
from ..errors import PromptError

_NOT_OFFERED: dict[str, tuple[Any, ...]] = {
    "assistant_early_exit": (), "constraints": (), "dola_layers": (), "encoder_no_repeat_ngram_size": (0,),
    "exponential_decay_length_penalty": (), "force_words_ids": (), "forced_bos_token_id": (), "forced_eos_token_id": (),
    "guidance_scale": (1,), "num_beam_groups": (1,), "penalty_alpha": (0,), "token_healing": (False,),
    "use_mtp": (False,), "watermarking_config": (),
}  # fmt: skip
"""Options of the reference that would change an answer, and the values at which they do not; a folder that sets another is
refused rather than answered otherwise."""
_NO_TOKEN = ("eos_token_id", "suppress_tokens", "begin_suppress_tokens")
_AT_LEAST_0 = ("min_length", "no_repeat_ngram_size")
_WHOLE = ("max_length", "max_new_tokens", "pad_token_id")


def options_in(generation: dict[str, Any], config: dict[str, Any], known: Collection[str]) -> dict[str, Any]:
    """The known options that generation_config.json sets, with config.json for the end tokens where the former has none.

    Raises:
        PromptError: it sets one that would change answers and is not offered here.
    """
    text = config.get("text_config")
    configs = (generation, config, text if isinstance(text, dict) else {})
    eos = next((c["eos_token_id"] for c in configs if c.get("eos_token_id") is not None), None)
    given = {name: generation[name] for name in known if generation.get(name) is not None} | {"eos_token_id": eos}
    chosen = {name: _as_read(name, value) for name, value in given.items() if value is not None}
    beams = is_whole(chosen.get("num_beams")) and chosen["num_beams"] > 1
    if beams:  # which guess nothing
        chosen.pop("prompt_lookup_num_tokens", None)
    ignored = {"penalty_alpha"} if beams or chosen.get("do_sample") or chosen.get("top_k") in (0, 1) else set()
    for name, neutral in _NOT_OFFERED.items():
        if name not in ignored and generation.get(name) not in (None, *neutral):
            raise PromptError(f"it sets {name} to {generation[name]!r:.40}, which this package does not offer.")
    return chosen


def _as_read(name: str, value: Any) -> Any:
    """An option in a generation_config.json as the reference reads it where that is odd but clear, else as it stands."""
    if name in _NO_TOKEN:  # a negative one is no token, and never occurs
        several = value if isinstance(value, list) else [value]
        return [one for one in several if not (is_whole(one) and one < 0)]
    if name in _AT_LEAST_0 and is_whole(value):
        return max(0, value)
    if name in _WHOLE and isinstance(value, float) and value.is_integer():
        return int(value)
    if name == "top_p" and is_number(value) and value > 1:
        return 1.0
    if name in ("epsilon_cutoff", "eta_cutoff") and is_number(value) and not 0 < value < 1:
        return 0.0
    if name in ("do_sample", "early_stopping") and is_whole(value) and value in (0, 1):
        return bool(value)
    return value
