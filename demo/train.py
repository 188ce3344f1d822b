"""Train the demo model from scratch on a CPU: `python -m idefics2_onnx.demo.train FOLDER`.

Four things make a model this narrow learn at all: an initialisation scaled to its widths (transformers' own leaves attention
uniform), eyes first (the encoder alone learns what lies under each patch; that head is thrown away, its loss goes on beside the
answers'), a second such head that has to tell the same from the perceiver's latents, and easy questions before hard ones.

A run can be stopped at any time and goes on from its last save. FOLDER/log.jsonl grows by a line now and then; at the end the
checkpoint, in the real layout, is in FOLDER/checkpoint.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset
from transformers import Idefics2Config, Idefics2ForConditionalGeneration

from ..runtime.geometry import Box, Size, tile_boxes
from ..runtime.image_processor import Idefics2ImageProcessor
from ..runtime.padding import Tile
from ..runtime.prompt import expand_images
from .checkpoint import END_OF_UTTERANCE, IMAGE, set_generation_config, write_processor_files
from .pictures import Mark, mark_classes
from .tasks import TASKS, Case, Set, case
from .tokenizer import demo_tokenizer

PATCH, SIDE, LATENTS = 14, 112, 16
TILES = SIDE // 2, SIDE
"""Sides of the squares that tiles are padded to."""
IMAGE_OPTIONS: dict[str, Any] = {
    "do_image_splitting": True, "image_mean": [0.5] * 3, "image_std": [0.5] * 3,
    "size": {"longest_edge": SIDE, "shortest_edge": 3 * PATCH},
}  # fmt: skip
SHARES = {
    "shapes": 0.14, "counting": 0.12, "reading": 0.24, "small text": 0.14, "receipt": 0.14, "comparing": 0.1,
    "follow-up": 0.06, "absence": 0.06,
}  # fmt: skip
"""Of the cases."""
SEVERAL = ("comparing", "follow-up")
EYES, EYES_SHARES = 3500, (
    (2000, {"reading": 0.3, "small text": 0.25, "receipt": 0.35, "counting": 0.1}),
    (3500, {"reading": 0.42, "small text": 0.4, "receipt": 0.08, "counting": 0.1}),
)  # fmt: skip
"""Steps in which only the encoder learns, and what it sees until which of them."""
RAMP = 3000
"""Steps after those until cases are as hard as they get."""
RECALL = 5800
"""Step from which the latents have to tell what lies under each patch, too."""
WARM_UP, DECAY = 200, 0.35
"""Steps in which the learning rate rises, and the last share of all steps, in which it falls to nothing."""
SIDE_WEIGHT, RECALL_WEIGHT, NOTHING_WEIGHT = 0.5, 0.5, 0.05
"""Of the side tasks' losses, and of patches that show nothing in them: they are most, and soon learnt."""


def demo_config() -> Idefics2Config:
    """The whole architecture in 4.5 million parameters."""
    tokenizer = demo_tokenizer()
    return Idefics2Config(
        image_token_id=tokenizer.token_to_id(IMAGE),
        text_config={
            "model_type": "mistral",
            "vocab_size": tokenizer.get_vocab_size(),
            "hidden_size": 192,
            "intermediate_size": 512,
            "num_hidden_layers": 4,
            "num_attention_heads": 6,
            "num_key_value_heads": 2,
            "head_dim": 32,
            "max_position_embeddings": 2048,
            "sliding_window": 512,
            "rms_norm_eps": 1e-5,
            "pad_token_id": 0,
        },
        vision_config={
            "hidden_size": 192,
            "intermediate_size": 512,
            "num_hidden_layers": 4,
            "num_attention_heads": 6,
            "image_size": SIDE,
            "patch_size": PATCH,
        },
        perceiver_config={
            "hidden_size": 192,
            "resampler_n_latents": LATENTS,
            "resampler_depth": 2,
            "resampler_n_heads": 6,
            "resampler_head_dim": 32,
            "num_key_value_heads": 2,
            "rms_norm_eps": 1e-6,
        },
    )


def initialise(model: Idefics2ForConditionalGeneration) -> None:
    """Draw weights so that every layer's output has a standard deviation near 1, and what is added to a stream less."""
    added = ("o_proj", "out_proj", "fc2", "down_proj")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "latents" in name:
                parameter.normal_()
            elif "position_embedding" in name or "embed_tokens" in name:
                parameter.normal_(0, 0.5)
            elif parameter.ndim > 1:
                scale = 0.5 if any(part in name for part in added) else 1.0
                parameter.normal_(0, scale * parameter[0].numel() ** -0.5)


@dataclass(frozen=True)
class Tiles:
    """Tiles padded to one size, the last of them repeated up to a round number: kernels are made anew for every new shape."""

    pixels: Tensor
    """float32 [tiles, 3, side, side]."""
    mask: Tensor
    """Which patches are the tile's own, bool [tiles, side / 14, side / 14]."""
    under: Tensor
    """What lies under each patch's left and right half, int64 [tiles, patches, 2], −100 at padding."""
    places: list[int]
    """Which of the batch's tiles the first ones are, in the order of its image tokens."""


@dataclass(frozen=True)
class Batch:
    """Conversations as training takes them."""

    ids: Tensor
    """int64 [batch, seq], padded on the right."""
    labels: Tensor
    """The answers' tokens, −100 elsewhere."""
    tiles: list[Tiles]
    asked: list[str]
    """The case's task of each row."""


class Encoder:
    """Cases → batches, with the runtime's own image processor and the tokenizer."""

    def __init__(self) -> None:
        self._tokenizer = demo_tokenizer()
        self._images = Idefics2ImageProcessor(**IMAGE_OPTIONS)

    def batch(self, cases: list[Case]) -> Batch:
        rows, labels, tiles, under = [], [], [], []
        for one in cases:
            ids, wanted = self._conversation(one)
            rows.append(ids)
            labels.append(wanted)
            for turn in one.turns:
                for image, marks in zip(turn.images, turn.marks, strict=True):
                    (own,) = self._images.tiles([image])
                    tiles += own
                    boxes = tile_boxes(Size(image.height, image.width), True)
                    under += [_under(marks, box, tile.shape[1:]) for box, tile in zip(boxes, own, strict=True)]
        longest = -(-max(map(len, rows)) // 32) * 32
        small = [i for i, tile in enumerate(tiles) if max(tile.shape) <= SIDE // 2]
        large = [i for i, tile in enumerate(tiles) if max(tile.shape) > SIDE // 2]
        return Batch(
            torch.tensor([row + [0] * (longest - len(row)) for row in rows]),
            torch.tensor([row + [-100] * (longest - len(row)) for row in labels]),
            [_padded(tiles, under, places, side) for places, side in ((small, SIDE // 2), (large, SIDE)) if places],
            [one.task for one in cases],
        )

    def _conversation(self, one: Case) -> tuple[list[int], list[int]]:
        """Ids of all turns, and labels: the answers with their end tokens."""
        bos = self._tokenizer.token_to_id("<s>")
        assert bos is not None
        ids, labels = [bos], [-100]
        for turn in one.turns:
            question = f"User:{IMAGE * len(turn.images)}{'' if turn.images else ' '}{turn.question}{END_OF_UTTERANCE}\nAssistant:"
            asked = self._ids(expand_images(question, LATENTS, split=True))
            answer = self._ids(f"{question} {turn.answer}{END_OF_UTTERANCE}")[len(self._ids(question)) :]
            ids += asked + answer
            labels += [-100] * len(asked) + answer
            rest = self._ids(f"{END_OF_UTTERANCE}\n")[1:]
            ids += rest
            labels += [-100] * len(rest)
        return ids, labels

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids


def _under(marks: list[Mark], box: Box, size: tuple[int, ...]) -> NDArray[np.int64]:
    """Class of what lies under each patch's halves [rows, columns, 2] of a tile, which shows a box of the picture."""
    rows, columns = size[0] // PATCH, size[1] // PATCH
    ys = box.upper + (np.arange(rows) + 0.5) * PATCH * box.size.height / size[0]
    xs = box.left + (np.arange(2 * columns) + 0.5) * PATCH / 2 * box.size.width / size[1]
    found = np.zeros((rows, 2 * columns), np.int64)
    for mark in marks:
        left, top, right, bottom = mark.box
        (y, y_end), (x, x_end) = np.searchsorted(ys, [top, bottom]), np.searchsorted(xs, [left, right])
        found[y:y_end, x:x_end] = mark.label
    return found.reshape(rows, columns, 2)


def _padded(tiles: list[Tile], under: list[NDArray[np.int64]], places: list[int], side: int) -> Tiles:
    count, grid = -(-len(places) // 16) * 16, side // PATCH
    pixels = np.zeros((count, 3, side, side), np.float32)
    mask = np.zeros((count, grid, grid), bool)
    labels = np.full((count, grid, grid, 2), -100)
    for row in range(count):
        tile, label = tiles[places[min(row, len(places) - 1)]], under[places[min(row, len(places) - 1)]]
        pixels[row, :, : tile.shape[1], : tile.shape[2]] = tile
        mask[row, : label.shape[0], : label.shape[1]] = True
        if row < len(places):
            labels[row, : label.shape[0], : label.shape[1]] = label
    return Tiles(torch.from_numpy(pixels), torch.from_numpy(mask), torch.from_numpy(labels).flatten(1, 2), places)


class Batches(Dataset[Batch]):
    """Batch number i of a run: its cases follow from i alone. Cases with several pictures go together, half as many."""

    def __init__(self, steps: int, size: int, which: Set = "training") -> None:
        self._steps, self._size, self._which = steps, size, which
        self._encoder: Encoder | None = None

    def __len__(self) -> int:
        return self._steps

    def __getitem__(self, step: int) -> Batch:
        self._encoder = self._encoder or Encoder()
        random = np.random.default_rng([7, step])
        several = random.random() < 2 * sum(SHARES[task] for task in SEVERAL)  # they come in batches half as large
        shares = {task: share for task, share in SHARES.items() if (task in SEVERAL) == several}
        ease = min(1.0, 0.1 + (step - EYES) / RAMP)
        if self._which == "held-out":
            ease = 1.0
        elif step < EYES:
            shares, several, ease = next(shares for until, shares in EYES_SHARES if step < until), False, 1.0
        total = sum(shares.values())
        size = self._size // 2 if several else self._size
        tasks = random.choice(list(shares), size, p=[share / total for share in shares.values()]).tolist()
        return self._encoder.batch([case(task, self._which, step * self._size + i, ease) for i, task in enumerate(tasks)])


class Recall(nn.Module):
    """What lies under each patch, told from the latents alone: each place of a grid looks at them once."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.places = nn.ParameterList([nn.Parameter(torch.randn(side // PATCH, side // PATCH, width)) for side in TILES])
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.tell = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.GELU(), nn.Linear(width, 2 * mark_classes()))

    def forward(self, latents: Tensor, side: int) -> Tensor:
        """Latents [tiles, latents, width] → logits [tiles × patches × 2, classes]."""
        places = self.places[TILES.index(side)].flatten(0, 1).expand(len(latents), -1, -1)
        told: Tensor = self.tell(self.attention(places, latents, latents, need_weights=False)[0])
        return told.float().view(-1, mark_classes())


class Trainee(nn.Module):
    """The model and the side tasks' heads."""

    def __init__(self) -> None:
        super().__init__()
        self.model = Idefics2ForConditionalGeneration(demo_config())
        initialise(self.model)
        self.model.set_attn_implementation("eager")  # on CPUs the fused one is slower backwards
        self.side = nn.Linear(self.model.config.vision_config.hidden_size, 2 * mark_classes())
        self.recall = Recall(self.model.config.text_config.hidden_size, 6)
        self.side_weights: Tensor
        self.register_buffer("side_weights", torch.tensor([NOTHING_WEIGHT] + [1.0] * (mark_classes() - 1)), persistent=False)

    def see(self, batch: Batch) -> tuple[list[Tensor], Tensor]:
        """What the encoder makes of each of the batch's tiles, and the side task's loss."""
        seen = [
            self.model.model.vision_model(pixel_values=tiles.pixels, patch_attention_mask=tiles.mask).last_hidden_state
            for tiles in batch.tiles
        ]
        losses = [
            self._told(self.side(states).float().view(-1, mark_classes()), tiles)
            for states, tiles in zip(seen, batch.tiles, strict=True)
        ]
        return seen, torch.stack(losses).mean()

    def _told(self, logits: Tensor, tiles: Tiles) -> Tensor:
        return functional.cross_entropy(logits, tiles.under.flatten(), self.side_weights, ignore_index=-100)

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Logits [batch, seq, vocab] and the side tasks' losses."""
        features: dict[int, Tensor] = {}
        seen, loss = self.see(batch)
        recalled = []
        for states, tiles in zip(seen, batch.tiles, strict=True):
            connected = self.model.model.connector(states, tiles.mask.flatten(1))
            recalled.append(self._told(self.recall(connected, tiles.pixels.shape[-1]), tiles))
            features |= dict(zip(tiles.places, connected, strict=False))
        text = self.model.model.text_model
        embeds = text.embed_tokens(batch.ids)
        shown = torch.cat([features[place] for place in range(len(features))])
        embeds = embeds.masked_scatter((batch.ids == self.model.image_token_id)[..., None], shown.to(embeds.dtype))
        hidden = text(inputs_embeds=embeds, use_cache=False).last_hidden_state
        return self.model.lm_head(hidden), loss, torch.stack(recalled).mean()

    def compile_layers(self) -> None:
        """Compile what is run most, for batches and lengths of any size."""
        model = self.model.model
        stacks = model.vision_model.encoder.layers, model.connector.perceiver_resampler.layers, model.text_model.layers
        for layer in (*(layer for stack in stacks for layer in stack), model.connector.modality_projection):
            layer.compile(dynamic=True)


def optimisers(trainee: Trainee, rate: float) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the layers, AdamW for everything else."""
    inside = {
        name for name, parameter in trainee.named_parameters()
        if (parameter.ndim == 2 and ".layers." in name) or "modality_projection" in name
    }  # fmt: skip
    matrices = [parameter for name, parameter in trainee.named_parameters() if name in inside]
    others = [parameter for name, parameter in trainee.named_parameters() if name not in inside]
    return [
        torch.optim.Muon(matrices, lr=rate, weight_decay=0.02, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=rate, weight_decay=0.02, betas=(0.9, 0.98)),
    ]


def share_of_rate(step: int, steps: int) -> float:
    """Of the highest learning rate: up, level, and down to nothing at the last step."""
    return max(0.0, min(1.0, (step + 1) / WARM_UP, (steps - step) / (DECAY * steps)))


def exact(trainee: Trainee, batches: Iterator[Batch]) -> dict[str, float]:
    """Share of held-out answers whose every token is the likeliest, by task; each behind the right ones."""
    right: dict[str, list[bool]] = {task: [] for task in TASKS}
    trainee.eval()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        for batch in batches:
            guess, wanted = trainee(batch)[0][:, :-1].argmax(-1), batch.labels[:, 1:]
            for task, row in zip(batch.asked, ((guess == wanted) | (wanted == -100)).all(1).tolist(), strict=True):
                right[task].append(row)
    trainee.train()
    return {task: round(float(np.mean(rows)), 3) for task, rows in right.items() if rows}


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--steps", default=12_000, show_default=True)
@click.option("--batch-size", default=48, show_default=True)
@click.option("--rate", default=1.5e-3, show_default=True, help="Highest learning rate.")
@click.option("--save-every", default=200, show_default=True, help="Steps between saves and log lines.")
@click.option("--compile", "compiled", is_flag=True, help="Compile the layers: a quarter faster, needs a C++ compiler.")
def main(folder: Path, steps: int, batch_size: int, rate: float, save_every: int, compiled: bool) -> None:
    """Train the demo model in FOLDER, or go on with it."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    trainee = Trainee()
    learning = optimisers(trainee, rate)
    state, done, seconds = folder / "state.pt", 0, 0.0
    if state.exists():
        saved = torch.load(state, weights_only=True)
        trainee.load_state_dict(saved["trainee"])
        for optimiser, part in zip(learning, saved["optimisers"], strict=True):
            optimiser.load_state_dict(part)
        done, seconds = saved["done"], saved["seconds"]
    if compiled:
        trainee.compile_layers()
    loader = DataLoader(Batches(steps, batch_size), batch_size=None, sampler=range(done, steps), num_workers=1, prefetch_factor=4)
    checks = Batches(steps, batch_size, "held-out")
    count = sum(parameter.numel() for parameter in trainee.model.parameters())
    click.echo(f"{count:,} parameters, steps {done} to {steps}", err=True)
    start, losses = time.perf_counter() - seconds, []
    with click.progressbar(loader, length=steps - done, label="training", show_eta=True) as bar:
        for step, batch in enumerate(bar, done + 1):
            with torch.autocast("cpu", torch.bfloat16):
                if step <= EYES:
                    loss, side, recall = torch.zeros(()), trainee.see(batch)[1], torch.zeros(())
                else:
                    logits, side, recall = trainee(batch)
                    loss = functional.cross_entropy(
                        logits[:, :-1].float().flatten(0, 1), batch.labels[:, 1:].flatten(), ignore_index=-100
                    )
            (loss + SIDE_WEIGHT * side + (RECALL_WEIGHT if step > RECALL else 0) * recall).backward()
            nn.utils.clip_grad_norm_(trainee.parameters(), 1.0)
            for optimiser in learning:
                for group in optimiser.param_groups:
                    group["lr"] = rate * share_of_rate(step - 1, steps)
                optimiser.step()
                optimiser.zero_grad()
            losses.append((loss.item(), side.item(), recall.item()))
            if step % save_every == 0 or step == steps:
                means = np.mean(losses, 0).round(4).tolist()
                losses.clear()
                score = exact(trainee, (checks[i] for i in range(8))) if step > EYES else {}
                taken = time.perf_counter() - start
                line = {
                    "step": step,
                    "loss": means[0],
                    "side": means[1],
                    "recall": means[2],
                    "exact": score,
                    "seconds": round(taken),
                }
                with (folder / "log.jsonl").open("a") as log:
                    log.write(json.dumps(line) + "\n")
                saved = {"trainee": trainee.state_dict(), "optimisers": [optimiser.state_dict() for optimiser in learning]}
                torch.save(saved | {"done": step, "seconds": taken}, state.with_suffix(".new"))
                state.with_suffix(".new").replace(state)
    checkpoint = folder / "checkpoint"
    set_generation_config(trainee.model, demo_tokenizer())
    trainee.model.half().save_pretrained(checkpoint)
    write_processor_files(checkpoint, demo_tokenizer(), LATENTS, IMAGE_OPTIONS)
    click.echo(checkpoint)


if __name__ == "__main__":
    main()
