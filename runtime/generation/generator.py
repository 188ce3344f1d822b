"""The loop: prefill, then step."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ..engine.decode_step import DecodeStep
from ..engine.prefill import images_at_once, read_prompts
from ..engine.timings import Timings
from ..memory.key_value_cache import KeyValueCache
from ..memory.prefix_cache import prompt_key
from ..sample import Sample
from ..sampling.beam_search import BeamSearch
from ..sampling.generation_options import GenerationOptions
from ..sampling.token_chooser import TokenChooser
from ..text.text_stream import TextStream
from .answer import Answer
from .loaded_model import LoadedModel
from .rows import Rows, spread


class Generator:
    """One call's generation: prompts in, answers out.

    Attributes:
        answers: of the first prompt, then of the second, …; they grow while `steps` is iterated.
        timings: what it took so far.
    """

    def __init__(
        self,
        model: LoadedModel,
        samples: Sequence[Sample],
        options: GenerationOptions,
        *,
        streamed: bool = False,
        cache: KeyValueCache | None = None,
    ) -> None:
        """Check everything that can be checked before any work.

        Args:
            streamed: whether text is taken from the answers while they grow.
            cache: of one row, holding the tokens that the one sample has `reused`; it keeps what is read and generated.
                Left out, there is a new one, and what the model keeps of earlier prompts is used.

        Raises:
            PromptError: a prompt and its answer do not fit the model.
        """
        engine, tokenizer = model.engine, model.processor.tokenizer
        self._engine, self._tokenizer, self._options, self._cache = engine, tokenizer, options, cache
        self._prefixes = model.prefix_cache if cache is None else None
        limits = [options.new_tokens(sample.tokens, engine.sizes.max_positions) for sample in samples]
        for sample, limit in zip(samples, limits, strict=True):
            sample.check(engine.sizes, limit)
        self._samples = list(samples)
        self._check_room()
        self._chooser = TokenChooser(options, engine.sizes.vocab_size)
        self.timings = Timings()
        self.answers = [
            Answer(
                prompt, sample, sequence, limit, self._chooser, tokenizer, self.timings, streamed, model.grammars.matcher(options)
            )
            for prompt, (sample, limit) in enumerate(zip(samples, limits, strict=True))
            for sequence in range(options.num_return_sequences)
        ]

    def steps(self) -> Iterator[None]:
        """Generate, with a stop after each decoder call that gave tokens."""
        # Rows of the cache stand in the order of their prompts' lengths, so that prompts of one length are read together.
        order = sorted(range(len(self._samples)), key=lambda i: self._samples[i].tokens)
        cache = self._cache or self._engine.new_cache(len(order) * self._rows_per_prompt, self._first_capacity())
        self._cache = cache
        logits = self._prefill(cache, order)
        several = self._options.num_return_sequences
        if self._options.num_beams > 1:
            yield from self._search(cache, logits, order)
        else:
            answers = [self.answers[prompt * several] for prompt in order]
            for sequence in range(1, several):
                for row, prompt in enumerate(order):
                    cache.take(len(answers), row)
                    answers.append(self.answers[prompt * several + sequence])
            yield from self._decode(cache, np.concatenate([logits] * several), answers)

    def _check_room(self) -> None:
        """Raise PromptError unless all rows fit this machine, with what they see of their images beside what is read at once."""
        rows = len(self._samples) * self._rows_per_prompt
        kept = max(1 if sample.seen is None else int(sample.seen[-1].sum()) for sample in self._samples)
        by_length = sorted(self._samples, key=lambda sample: sample.tokens)
        self._engine.check_room(rows, by_length[-1].tokens, rows * max(1, kept) + images_at_once(by_length))

    def free(self) -> None:
        """Let go of what only generating needs."""
        self._cache = None
        self._samples = [replace(sample, tiles=[]) for sample in self._samples]

    @property
    def cached_tokens(self) -> list[int]:
        """The tokens that the cache of a single answer holds, as far as they would be the same in a prompt."""
        ids = self._samples[0].ids + ([] if self._engine.reads_apart else self.answers[0].token_ids)
        return ids[: int(self._cache.tokens[0])] if self._cache else []

    @property
    def _rows_per_prompt(self) -> int:
        return max(self._options.num_beams, self._options.num_return_sequences)

    def _first_capacity(self) -> int:
        """Room for the prompts and the start of their answers."""
        whole = max(sample.tokens + self._limit(i) for i, sample in enumerate(self._samples)) - 1
        return KeyValueCache.first_capacity(max(sample.tokens for sample in self._samples), whole)

    def _limit(self, prompt: int) -> int:
        return self.answers[prompt * self._options.num_return_sequences].limit

    def _prefill(self, cache: KeyValueCache, order: Sequence[int]) -> NDArray[np.float32]:
        """Read the prompts; logits [prompts, vocab] after each, in the cache's order."""
        start = time.perf_counter()
        samples = [self._samples[prompt] for prompt in order]
        sizes = self._engine.sizes
        cache.reserve(max(sample.tokens for sample in samples), sizes.max_positions)
        echoed, several = self._options.echo and self._options.logprobs, self._options.num_return_sequences
        prefixes = None if echoed else self._prefixes
        keys = [prompt_key(sample, sizes) if prefixes else None for sample in samples]
        for row, key in enumerate(keys):
            if prefixes and key and (found := prefixes.find(key)):
                known, tokens = found
                cache.copy_row(row, 0, known, stop=tokens)
                samples[row] = samples[row].after(tokens, sizes)
        self.timings.prompt_tokens_reused += sum(sample.reused for sample in samples)
        last = np.empty((len(samples), sizes.vocab_size), np.float32)
        for part in read_prompts(self._engine, samples, cache, self.timings, everywhere=echoed):
            for row, logits in enumerate(part.logits, part.first_row):
                if echoed:
                    logits = logits[: samples[row].tokens - part.start]
                    for answer in self.answers[order[row] * several : (order[row] + 1) * several]:
                        answer.note_prompt(part.start, logits)
                last[row] = logits[-1]
        for row, key in enumerate(keys):
            if prefixes and key:
                prefixes.put(key, cache, row, len(key))
        self.timings.cache_bytes = cache.peak_bytes
        self.timings.prefill = time.perf_counter() - start - self.timings.images
        return last

    def _decode(self, cache: KeyValueCache, logits: NDArray[np.float32], answers: list[Answer]) -> Iterator[None]:
        """Greedy and sampled answers: choose, let the ended ones leave, step."""
        start = time.perf_counter()
        rows = Rows(self._engine, cache, answers)
        rows.accept(logits, rows.answers)
        self._raise()
        self.timings.prefill += time.perf_counter() - start
        yield
        rows.leave()
        while rows.answers:
            rows.step()
            self._raise()
            yield
            rows.leave()

    def _raise(self) -> None:
        """Raise what ended an answer."""
        for answer in self.answers:
            if answer.error is not None:
                raise answer.error

    def _search(self, cache: KeyValueCache, logits: NDArray[np.float32], order: Sequence[int]) -> Iterator[None]:
        """Beam search: every prompt has `num_beams` rows of the cache, side by side."""
        beams = self._options.num_beams
        spread(cache, len(order), beams)
        logits = np.repeat(logits, beams, axis=0)
        searches = {
            prompt: BeamSearch(
                self._options,
                self._chooser,
                self.answers[prompt * self._options.num_return_sequences].history,
                self._limit(prompt),
                lambda: TextStream(self._tokenizer, self._options.stop_strings),
            )
            for prompt in order
        }
        running, step = list(order), None
        while True:
            start = time.perf_counter()
            self._engine.check_finite(logits)
            for place, prompt in enumerate(running):
                first = place * beams
                sources = searches[prompt].advance(logits[first : first + beams])
                cache.reorder(first, sources, self._samples[prompt].tokens)
            for place in reversed(range(len(running))):
                if searches[running[place]].done:
                    self._finish(running[place], searches[running[place]])
                    for beam in reversed(range(beams)) if place != len(running) - 1 else ():
                        cache.take(place * beams + beam, (len(running) - 1) * beams + beam)
                    running[place] = running[-1]
                    running.pop()
            self.timings.decode += time.perf_counter() - start
            yield
            if not running:
                return
            start = time.perf_counter()
            rows = len(running) * beams
            cache.reserve(int(cache.tokens[:rows].max()) + 1, self._engine.sizes.max_positions)
            if step is None or (step.batch, step.capacity) != (rows, cache.capacity):
                step = DecodeStep(self._engine, cache, rows)
            logits = step([token for prompt in running for token in searches[prompt].last_tokens])
            self.timings.steps += 1
            self.timings.cache_bytes = cache.peak_bytes
            self.timings.decode += time.perf_counter() - start

    def _finish(self, prompt: int, search: BeamSearch) -> None:
        """Hand the best answers of a prompt over."""
        several = self._options.num_return_sequences
        answers = self.answers[prompt * several : (prompt + 1) * several]
        for answer, tokens in zip(answers, search.best(several), strict=True):
            for token in tokens:
                answer.push(token)
