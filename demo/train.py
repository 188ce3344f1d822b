"""Train the demo model from scratch on a CPU: `python -m idefics2_onnx.demo.train FOLDER`.

Five things make a model this narrow learn at all:

* an initialisation scaled to its widths (transformers' own leaves attention uniform);
* eyes first: before any question, encoder and connector learn what lies under each patch, from pages full of text among others;
* latents that hold one cell of their tile each, since a head has to tell each patch from one of them;
* several questions about each picture at once, blind to one another, and a head that tells from the last layer but one where the
  answer's next character stands;
* easy questions before hard ones.

The heads are thrown away; their losses go on beside the answers'.

A run can be stopped at any time and goes on from its last save. FOLDER/log.jsonl grows by a line now and then; at the end the
checkpoint, in the real layout, is in FOLDER/checkpoint.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import numpy as np
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader

from .architecture import IMAGE_OPTIONS, LATENTS
from .batches import EYES, Batch, Batches
from .checkpoint_files import set_generation_config, write_processor_files
from .tasks import TASKS
from .tokenizer import demo_tokenizer
from .trainee import Trainee

WARM_UP, DECAY = 200, 0.35
"""Steps in which the learning rate rises, and the last share of all steps, in which it falls to nothing."""
SIDE_WEIGHTS = 0.5, 0.5, 0.3
"""Weights of the side tasks' losses: under each patch, recalled from the latents, gaze."""


def optimisers(trainee: nn.Module, inside: Callable[[str, nn.Parameter], bool]) -> list[tuple[torch.optim.Optimizer, float]]:
    """Muon for the matrices `inside` the layers, AdamW for everything else; with their highest learning rates."""
    matrices = [parameter for name, parameter in trainee.named_parameters() if inside(name, parameter)]
    others = [parameter for name, parameter in trainee.named_parameters() if not inside(name, parameter)]
    return [
        (torch.optim.Muon(matrices, weight_decay=0.02, adjust_lr_fn="match_rms_adamw"), 4e-3),
        (torch.optim.AdamW(others, weight_decay=0.02, betas=(0.9, 0.98)), 2e-3),
    ]


def in_layers(name: str, parameter: nn.Parameter) -> bool:
    return (parameter.ndim == 2 and ".layers." in name) or "modality_projection" in name


def share_of_rate(step: int, steps: int, eyes: int = EYES) -> float:
    """The share of the highest learning rate: up, level; up to half once there are answers, level, and down to nothing."""
    if step < eyes:
        return min(1.0, (step + 1) / WARM_UP)
    return 0.5 * max(0.0, min(1.0, (step - eyes + 1) / WARM_UP, (steps - step) / (DECAY * steps)))


def exact(trainee: Trainee, batches: Iterator[Batch]) -> dict[str, float]:
    """Share of held-out answers whose every token is the likeliest, by task; each after the right ones."""
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
@click.option("--save-every", default=200, show_default=True, help="Steps between saves and log lines.")
@click.option("--compile", "compiled", is_flag=True, help="Compile the layers: a quarter faster, needs a C++ compiler.")
def main(folder: Path, steps: int, batch_size: int, save_every: int, compiled: bool) -> None:
    """Train the demo model in FOLDER, or go on with it."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    trainee = Trainee()
    learning = optimisers(trainee, in_layers)
    state, done, seconds = folder / "state.pt", 0, 0.0
    if state.exists():
        saved = torch.load(state, weights_only=True)
        trainee.load_state_dict(saved["trainee"])
        for (optimiser, _), part in zip(learning, saved["optimisers"], strict=True):
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
                    loss, sides = torch.zeros(()), torch.stack([*trainee.see(batch)[1:], torch.zeros(())])
                else:
                    logits, sides = trainee(batch)
                    loss = functional.cross_entropy(
                        logits[:, :-1].float().flatten(0, 1), batch.labels[:, 1:].flatten(), ignore_index=-100
                    )
            (loss + sides @ torch.tensor(SIDE_WEIGHTS)).backward()
            nn.utils.clip_grad_norm_(trainee.parameters(), 1.0)
            for optimiser, rate in learning:
                for group in optimiser.param_groups:
                    group["lr"] = rate * share_of_rate(step - 1, steps)
                optimiser.step()
                optimiser.zero_grad()
            losses.append((loss.item(), *sides.tolist()))
            if step % save_every == 0 or step == steps:
                means = np.mean(losses, 0).round(4).tolist()
                losses.clear()
                score = exact(trainee, (checks[i] for i in range(8))) if step > EYES else {}
                taken = time.perf_counter() - start
                line = dict(zip(("loss", "side", "recall", "gaze"), means, strict=True))
                line = {"step": step, **line, "exact": score, "seconds": round(taken)}
                with (folder / "log.jsonl").open("a") as log:
                    log.write(json.dumps(line) + "\n")
                saved = {"trainee": trainee.state_dict(), "optimisers": [optimiser.state_dict() for optimiser, _ in learning]}
                torch.save(saved | {"done": step, "seconds": taken}, state.with_suffix(".new"))
                state.with_suffix(".new").replace(state)
    checkpoint = folder / "checkpoint"
    set_generation_config(trainee.model, demo_tokenizer())
    trainee.model.half().save_pretrained(checkpoint)
    write_processor_files(checkpoint, demo_tokenizer(), LATENTS, IMAGE_OPTIONS)
    click.echo(checkpoint)


if __name__ == "__main__":
    main()
