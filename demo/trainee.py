"""The demo model before it has learnt: its first weights, and the heads that only training has."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import Idefics2ForConditionalGeneration

from ..graphs.idefics2.positions import bucket_indices
from .architecture import LATENTS, PATCH, SIDE, demo_config
from .batches import Batch, Tiles
from .pictures import mark_classes

NOTHING_WEIGHT = 0.05
"""The weight of patches that show nothing, in the side tasks' losses: they are most, and soon learnt."""


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


class Recall(nn.Module):
    """What lies under each patch, told from one latent: each of them has to hold its own cell of a grid, in reading order."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.tell = nn.Linear(width, 2 * 2 * 2 * mark_classes())

    def forward(self, latents: Tensor, sizes: Tensor, patches: int) -> Tensor:
        """Latents [tiles, latents, width], rows and columns of each tile [tiles, 2] → logits [tiles, patches², 2, classes]."""
        cells = round(LATENTS**0.5)
        share = SIDE // PATCH // cells
        rows, columns = (torch.zeros(len(sizes), patches, dtype=torch.int64) for _ in range(2))
        for tile, (height, width) in enumerate(sizes.tolist()):
            rows[tile, :height], columns[tile, :width] = (torch.tensor(bucket_indices(n, SIDE // PATCH)) for n in (height, width))
        cell = (rows // share * cells)[:, :, None] + (columns // share)[:, None]
        part = (rows % share * share)[:, :, None] + (columns % share)[:, None]
        told = self.tell(latents).float().unflatten(-1, (share * share, 2, mark_classes()))
        return told[torch.arange(len(sizes))[:, None], cell.flatten(1), part.flatten(1)]


def _mask(batch: Batch) -> Tensor:
    """What is added to attention's scores [batch, 1, seq, seq]: each token sees what is before it in its part and in part 0."""
    to, seen = batch.parts[:, None, :, None], batch.parts[:, None, None, :]
    visible = ((seen == 0) | (seen == to)).tril()
    return torch.zeros(visible.shape, dtype=torch.bfloat16).masked_fill(~visible, torch.finfo(torch.bfloat16).min)


class Trainee(nn.Module):
    """The model and the side tasks' heads."""

    def __init__(self) -> None:
        super().__init__()
        self.model = Idefics2ForConditionalGeneration(demo_config())
        initialise(self.model)
        self.model.set_attn_implementation("eager")  # on CPUs the fused one is slower backwards
        self.side = nn.Linear(self.model.config.vision_config.hidden_size, 2 * mark_classes())
        self.recall = Recall(self.model.config.text_config.hidden_size)
        self.gaze = nn.Sequential(
            nn.LayerNorm(self.model.config.text_config.hidden_size),
            nn.Linear(self.model.config.text_config.hidden_size, 3 * (SIDE // PATCH)),
        )
        self.side_weights: Tensor
        self.register_buffer("side_weights", torch.tensor([NOTHING_WEIGHT] + [1.0] * (mark_classes() - 1)), persistent=False)

    def see(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """The latents of each of the batch's tiles [tiles, latents, width], and the side tasks' losses."""
        latents: dict[int, Tensor] = {}
        told, recalled = [], []
        for tiles in batch.tiles:
            states = self.model.model.vision_model(pixel_values=tiles.pixels, patch_attention_mask=tiles.mask).last_hidden_state
            connected = self.model.model.connector(states, tiles.mask.flatten(1))
            told.append(self._loss(self.side(states), tiles))
            sizes = torch.stack([tiles.mask.any(2).sum(1), tiles.mask.any(1).sum(1)], 1)
            recalled.append(self._loss(self.recall(connected, sizes, tiles.mask.shape[1]), tiles))
            latents |= dict(zip(tiles.places, connected, strict=False))
        shown = torch.stack([latents[place] for place in range(len(latents))])
        return shown, torch.stack(told).mean(), torch.stack(recalled).mean()

    def _loss(self, logits: Tensor, tiles: Tiles) -> Tensor:
        logits = logits.float().view(-1, mark_classes())
        return functional.cross_entropy(logits, tiles.under.flatten(), self.side_weights, ignore_index=-100)

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Logits [batch, seq, vocab] and the side tasks' losses [3]: under the patches, recalled from latents, and gaze."""
        shown, side, recall = self.see(batch)
        text = self.model.model.text_model
        x = text.embed_tokens(batch.ids)
        x = x.masked_scatter((batch.ids == self.model.image_token_id)[..., None], shown.to(x.dtype))
        mask, turns = _mask(batch), text.rotary_emb(x, batch.positions)
        states = [x]
        for layer in text.layers:
            states.append(layer(states[-1], attention_mask=mask, position_embeddings=turns, position_ids=batch.positions))
        wanted = batch.gaze[:, 1:]
        told = self.gaze(states[-2][:, :-1]).float().unflatten(-1, (3, SIDE // PATCH))  # from what the last layer reads
        gaze = functional.cross_entropy(told.flatten(0, 2), wanted.flatten(), ignore_index=-100, reduction="sum")
        gaze = gaze / (wanted >= 0).sum().clamp(min=1)  # a batch may have none
        return self.model.lm_head(text.norm(states[-1])), torch.stack([side, recall, gaze])

    def compile_layers(self) -> None:
        """Compile what is run most, for batches and lengths of any size."""
        model = self.model.model
        stacks = model.vision_model.encoder.layers, model.connector.perceiver_resampler.layers, model.text_model.layers
        for layer in (*(layer for stack in stacks for layer in stack), model.connector.modality_projection):
            layer.compile(dynamic=True)
