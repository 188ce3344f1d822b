"""Train a small IDEFICS on the demo's easiest tasks: pictures and text in turns, on weights that mean something.

    python benchmarks/train_idefics.py FOLDER [--steps 3150]

As the first model was, it is made of an encoder and a language model that have been trained before, the demo's; what is new are
the perceiver and the gated layers. It learns as the demo did (`idefics2_onnx.demo.train`), from the same pictures and with the
same side tasks; a picture is one tile, squeezed to a square. A run can be stopped at any time and goes on from its last save.
FOLDER/log.jsonl grows by a line now and then; at the end, on two cores after an hour and a half, the checkpoint is in
FOLDER/checkpoint.
"""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from idefics2_onnx.demo.architecture import LATENTS, PATCH, SIDE
from idefics2_onnx.demo.batches import Batch, Encoder, Tiles, under_patches
from idefics2_onnx.demo.checkpoint_files import set_generation_config
from idefics2_onnx.demo.pictures import mark_classes
from idefics2_onnx.demo.tasks import Case, case
from idefics2_onnx.demo.tokenizer import demo_tokenizer
from idefics2_onnx.demo.train import SIDE_WEIGHTS, optimisers, share_of_rate
from idefics2_onnx.demo.trainee import Recall, blind_mask, initialise, side_loss
from idefics2_onnx.demo.turn import Turn
from idefics2_onnx.runtime.image_tokens import END_OF_UTTERANCE, FAKE_IMAGE, IMAGE
from idefics2_onnx.runtime.images.geometry import Size, tile_boxes
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import _muon
from torch.utils.data import DataLoader, Dataset
from transformers import Idefics2ForConditionalGeneration, IdeficsConfig, IdeficsForVisionText2Text
from transformers.models.idefics.image_processing_pil_idefics import IdeficsImageProcessorPil

SHARES = {"shapes": 0.25, "counting": 0.3, "reading": 0.45}
EYES, EYES_SHARES = 400, {"page": 0.5, "counting": 0.25, "reading": 0.25}
"""Steps in which only encoder and perceiver learn, and what they see."""
RAMP = 800
WIDTH, HEAD = 192, 32
DEMO = Path(__file__).parents[1] / "demo" / "checkpoint"
FAST_BF16 = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
"""Elsewhere bfloat16 is many times slower than fp32."""
IMAGE_OPTIONS = {"image_size": SIDE, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}


def config() -> IdeficsConfig:
    """Five million parameters."""
    words = demo_tokenizer().get_vocab_size() - 3
    return IdeficsConfig(
        vocab_size=words,
        additional_vocab_size=3,
        hidden_size=WIDTH,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=6,
        cross_layer_interval=2,
        qk_layer_norms=True,
        use_resampler=True,
        alpha_initializer="ones",
        max_position_embeddings=1024,
        rms_norm_eps=1e-5,
        pad_token_id=0,
        vision_config={
            "embed_dim": WIDTH,
            "image_size": SIDE,
            "patch_size": PATCH,
            "intermediate_size": 512,
            "num_hidden_layers": 4,
            "num_attention_heads": 6,
        },
        perceiver_config={
            "resampler_n_latents": LATENTS,
            "resampler_depth": 2,
            "resampler_n_heads": 6,
            "resampler_head_dim": 32,
            "qk_layer_norms_perceiver": True,
        },
    )


class IdeficsEncoder(Encoder):
    """Cases → batches for IDEFICS: an image takes one token, and its pixels one tile."""

    def __init__(self) -> None:
        super().__init__()
        self._pixels = IdeficsImageProcessorPil(**IMAGE_OPTIONS)

    def turn(self, turn: Turn, pictures: int) -> tuple[list[int], list[int]]:
        images = (FAKE_IMAGE + IMAGE) * pictures + FAKE_IMAGE * bool(pictures)
        question = f"User:{images}{'' if pictures else ' '}{turn.question}{END_OF_UTTERANCE}\nAssistant:"
        answer = self.ids(f"{question} {turn.answer}{END_OF_UTTERANCE}")[len(self.ids(question)) :]
        return self.ids(question), answer

    def batch(self, cases: list[Case]) -> Batch:
        rows, images, under = [], [], []
        for one in cases:
            rows.append(self.conversation(one))
            for turn in one.turns:
                for image, marks in zip(turn.images, turn.marks, strict=True):
                    images.append(image)
                    (whole,) = tile_boxes(Size(image.height, image.width), False)
                    under.append(under_patches(marks, whole, (SIDE, SIDE)))
        longest = -(-max(len(row[0]) for row in rows) // 32) * 32
        ids, positions, parts, labels, gaze = (
            torch.tensor([row[i] + [filler] * (longest - len(row[i])) for row in rows])
            for i, filler in enumerate((0, 0, -1, -100, (-100,) * 3))
        )
        pixels = self._pixels(images, return_tensors="pt")
        pixels = pixels if isinstance(pixels, Tensor) else pixels["pixel_values"]
        mask = torch.ones(len(images), SIDE // PATCH, SIDE // PATCH, dtype=torch.bool)
        labelled = torch.from_numpy(np.stack(under)).flatten(1, 2)
        tiles = Tiles(pixels, mask, labelled, list(range(len(images))))
        return Batch(ids, positions, parts, labels, gaze, [tiles], [one.task for one in cases])


class IdeficsBatches(Dataset[list[Batch]]):
    """Batch number i of a run, its short rows and its long ones apart: half of a common rectangle would be padding.

    Its cases follow from i alone. Some prompts show up to three pictures, each with its question.
    """

    def __init__(self, steps: int, size: int, held_out: bool = False) -> None:
        self._steps, self._size, self._held_out = steps, size, held_out
        self._encoder: IdeficsEncoder | None = None

    def __len__(self) -> int:
        return self._steps

    def __getitem__(self, step: int) -> list[Batch]:
        self._encoder = self._encoder or IdeficsEncoder()
        random = np.random.default_rng([11, step])
        shares = EYES_SHARES if step < EYES and not self._held_out else SHARES
        ease = 1.0 if self._held_out or step < EYES else min(1.0, 0.1 + (step - EYES) / RAMP)
        number, cases = step * self._size * 3, []
        for _ in range(self._size):
            several = 1 if step < EYES and not self._held_out else int(random.choice([1, 1, 2, 3]))
            tasks = random.choice(list(shares), several, p=list(shares.values())).tolist()
            made = [self._case(task, number + i, ease) for i, task in enumerate(tasks)]
            number += several
            last = replace(made[-1], turns=[turn for one in made for turn in one.turns])
            cases.append(replace(last, others=[]) if self._held_out else last)
        cases.sort(key=lambda one: (len(one.turns), len(one.others)))
        return [self._encoder.batch(part) for part in (cases[: self._size // 2], cases[self._size // 2 :])]

    def _case(self, task: str, number: int, ease: float) -> Case:
        made = case(task, "held-out" if self._held_out else "training", number, ease)
        while task == "page" and made.turns[0].images[0].width > 140:  # a page that only splitting makes legible
            number += 1_000_000_000
            made = case(task, "training", number, ease)
        return made


def take_from_demo(model: IdeficsForVisionText2Text) -> None:
    """Give a model the demo's encoder, decoder, table and head."""
    given = Idefics2ForConditionalGeneration.from_pretrained(DEMO, dtype=torch.float32).state_dict()
    words, own = model.config.vocab_size, model.state_dict()
    taken: dict[str, Tensor] = {}
    for name, weight in given.items():
        if name.startswith("model.vision_model.encoder."):
            taken[name] = weight
        elif name.startswith("model.text_model."):
            if ".k_proj." in name or ".v_proj." in name:  # heads in groups, which LLaMA's are not
                groups = len(weight) // HEAD
                weight = weight.unflatten(0, (groups, HEAD)).repeat_interleave(WIDTH // HEAD // groups, 0).flatten(0, 1)
            taken[name.replace(".text_model.", ".")] = weight
    table, head = taken["model.embed_tokens.weight"], given["lm_head.weight"]
    taken |= {"model.embed_tokens.weight": table[:words], "model.embed_tokens.additional_embedding.weight": table[words:]}
    taken |= {"lm_head.weight": head[:words], "lm_head.additional_fc.weight": head[words:]}
    patches, places = (
        "model.vision_model.embeddings." + name for name in ("patch_embedding.weight", "position_embedding.weight")
    )
    taken[patches] = given[patches]
    shift = given[patches.replace("weight", "bias")]  # the patches' own bias, which this encoder has not
    taken[places] = torch.cat([own[places][:1], given[places] + shift])
    assert all(own[name].shape == weight.shape for name, weight in taken.items())
    model.load_state_dict(own | taken)


class IdeficsTrainee(nn.Module):
    """The model and the side tasks' heads."""

    def __init__(self) -> None:
        super().__init__()
        self.model = IdeficsForVisionText2Text(config())
        initialise(self.model)
        take_from_demo(self.model)
        self.model.set_attn_implementation("eager")
        self.side = nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 2 * mark_classes()))
        self.recall = Recall(WIDTH)
        self.gaze = nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 3 * (SIDE // PATCH)))
        self.image_token: int = demo_tokenizer().token_to_id(IMAGE) or 0
        self._read: Tensor | None = None
        self.model.model.layers[-1].register_forward_pre_hook(self._keep, with_kwargs=True)

    def _keep(self, _: nn.Module, args: Any, kwargs: Any) -> None:
        self._read = args[0] if args else kwargs["hidden_states"]

    def see(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """The latents of the batch's pictures [pictures, latents, width], and the side tasks' losses."""
        (tiles,) = batch.tiles
        inner = self.model.model
        states = inner.vision_model(pixel_values=tiles.pixels).last_hidden_state
        latents = inner.perceiver_resampler(states)
        sizes = torch.full((len(states), 2), SIDE // PATCH)
        told = side_loss(self.side(states[:, 1:]), tiles)
        return latents, told, side_loss(self.recall(latents, sizes, SIDE // PATCH), tiles)

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Logits [batch, seq, vocab] and the side tasks' losses [3]: under the patches, recalled from latents, and gaze."""
        shown, side, recall = self.see(batch)
        images = (batch.ids == self.image_token).sum(1)
        most = int(images.max())
        latents = shown.new_zeros(len(batch.ids), most, *shown.shape[1:])
        latents[torch.arange(most) < images[:, None]] = shown
        latest = (batch.ids == self.image_token).cumsum(1) - 1
        seen = (torch.arange(most) == latest[..., None]).long()
        logits = self.model(
            input_ids=batch.ids,
            attention_mask=blind_mask(batch),
            position_ids=batch.positions,
            perceiver_embeddings=latents,
            image_attention_mask=seen,
            use_cache=False,
        ).logits
        assert self._read is not None
        wanted = batch.gaze[:, 1:, :2]
        told = self.gaze(self._read[:, :-1]).float().unflatten(-1, (3, SIDE // PATCH))[..., :2, :]
        gaze = functional.cross_entropy(told.flatten(0, 2), wanted.flatten(), ignore_index=-100, reduction="sum")
        return logits, torch.stack([side, recall, gaze / (wanted >= 0).sum().clamp(min=1)])


def orthogonal(gradient: Tensor, coefficients: tuple[float, float, float], steps: int, eps: float) -> Tensor:
    """torch's Newton-Schulz iteration for Muon, in the gradient's own type instead of bfloat16."""
    linear, cubic, quintic = coefficients
    wide = gradient.T if len(gradient) > gradient.shape[1] else gradient
    wide = wide / wide.norm().clamp(min=eps)
    for _ in range(steps):
        gram = wide @ wide.T
        wide = torch.addmm(wide, torch.addmm(gram, gram, gram, beta=cubic, alpha=quintic), wide, beta=linear)
    return wide.T if len(gradient) > gradient.shape[1] else wide


if not FAST_BF16:
    _muon._zeropower_via_newtonschulz = orthogonal


def in_layers(name: str, parameter: nn.Parameter) -> bool:
    return parameter.ndim == 2 and name.startswith("model.") and any(part.isdigit() for part in name.split("."))


def exact(trainee: IdeficsTrainee, batches: list[Batch]) -> dict[str, float]:
    """Share of held-out answers whose every token is the likeliest, by the task of the prompt's last question."""
    right: dict[str, list[bool]] = {task: [] for task in SHARES}
    trainee.eval()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=FAST_BF16):
        for batch in batches:
            guess, wanted = trainee(batch)[0][:, :-1].argmax(-1), batch.labels[:, 1:]
            for task, row in zip(batch.asked, ((guess == wanted) | (wanted == -100)).all(1).tolist(), strict=True):
                right[task].append(row)
    trainee.train()
    return {task: round(float(np.mean(rows)), 3) for task, rows in right.items() if rows}


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--steps", default=3150, show_default=True)
@click.option("--batch-size", default=32, show_default=True)
@click.option("--save-every", default=100, show_default=True, help="Steps between saves and log lines.")
def main(folder: Path, steps: int, batch_size: int, save_every: int) -> None:
    """Train an IDEFICS in FOLDER, or go on with it."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    trainee = IdeficsTrainee()
    learning = optimisers(trainee, in_layers)
    state, done, seconds = folder / "state.pt", 0, 0.0
    if state.exists():
        saved = torch.load(state, weights_only=True)
        trainee.load_state_dict(saved["trainee"])
        for (optimiser, _), part in zip(learning, saved["optimisers"], strict=True):
            optimiser.load_state_dict(part)
        done, seconds = saved["done"], saved["seconds"]
    batches = IdeficsBatches(steps, batch_size)
    loader = DataLoader(batches, batch_size=None, sampler=range(done, steps), num_workers=1, prefetch_factor=4)
    held_out = IdeficsBatches(steps, batch_size, held_out=True)
    checks = [part for i in range(6) for part in held_out[i]]
    click.echo(f"{sum(p.numel() for p in trainee.model.parameters()):,} parameters, steps {done} to {steps}", err=True)
    start, losses = time.perf_counter() - seconds, []
    for step, parts in enumerate(loader, done + 1):
        answers = sum(int((batch.labels[:, 1:] >= 0).sum()) for batch in parts)
        for batch in parts:
            with torch.autocast("cpu", torch.bfloat16, enabled=FAST_BF16):
                if step <= EYES:
                    loss, sides = torch.zeros(()), torch.stack([*trainee.see(batch)[1:], torch.zeros(())])
                else:
                    logits, sides = trainee(batch)
                    loss = functional.cross_entropy(
                        logits[:, :-1].float().flatten(0, 1), batch.labels[:, 1:].flatten(), ignore_index=-100, reduction="sum"
                    )
            (loss / answers + sides @ torch.tensor(SIDE_WEIGHTS) / len(parts)).backward()
            losses.append((loss.item() * len(parts) / answers, *sides.tolist()))
        nn.utils.clip_grad_norm_(trainee.parameters(), 1.0)
        for optimiser, rate in learning:
            for group in optimiser.param_groups:
                group["lr"] = rate * share_of_rate(step - 1, steps, EYES)
            optimiser.step()
            optimiser.zero_grad()
        if step % save_every == 0 or step == steps:
            means = np.mean(losses, 0).round(4).tolist()
            losses.clear()
            score = exact(trainee, checks) if step > EYES else {}
            taken = time.perf_counter() - start
            line = {"step": step, **dict(zip(("loss", "side", "recall", "gaze"), means, strict=True)), "exact": score}
            with (folder / "log.jsonl").open("a") as log:
                log.write(json.dumps(line | {"seconds": round(taken)}) + "\n")
            saved = {"trainee": trainee.state_dict(), "optimisers": [optimiser.state_dict() for optimiser, _ in learning]}
            torch.save(saved | {"done": step, "seconds": taken}, state.with_suffix(".new"))
            state.with_suffix(".new").replace(state)
    write_checkpoint(trainee.model, folder / "checkpoint")
    click.echo(folder / "checkpoint")


def write_checkpoint(model: IdeficsForVisionText2Text, folder: Path) -> None:
    """Weights in fp32, tokenizer and processor's files."""
    set_generation_config(model, demo_tokenizer())
    model.save_pretrained(folder)
    demo_tokenizer().save(str(folder / "tokenizer.json"))
    special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<unk>"}
    files = {
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast", **special, "padding_side": "left",
            "additional_special_tokens": [FAKE_IMAGE, IMAGE, END_OF_UTTERANCE],
        },
        "preprocessor_config.json": {"image_processor_type": "IdeficsImageProcessor", "image_num_channels": 3, **IMAGE_OPTIONS},
    }  # fmt: skip
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
