"""What the demo is trained on: several questions about a picture at once, each as if it were asked alone."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from idefics2_onnx.demo.batches import Batches, Encoder
from idefics2_onnx.demo.tasks import Case, case
from idefics2_onnx.demo.tokenizer import demo_tokenizer
from idefics2_onnx.demo.trainee import Trainee
from idefics2_onnx.runtime.folder import DEMO
from tokenizers import Tokenizer


@pytest.fixture(scope="module")
def trainee() -> Trainee:
    torch.manual_seed(0)
    return Trainee().eval()


@torch.no_grad()
def answered(trainee: Trainee, one: Case, part: int) -> tuple[list[int], torch.Tensor]:
    """Of one question of a case: the answer's tokens, and the logits that stand before them."""
    batch = Encoder().batch([one])
    places = torch.nonzero((batch.parts[0] == part) & (batch.labels[0] != -100))[:, 0]  # not those of earlier turns
    return batch.labels[0, places].tolist(), trainee(batch)[0][0, places - 1]


@pytest.mark.parametrize("task", ["shapes", "counting", "absence", "receipt", "comparing", "follow-up"])
def test_packed_questions_do_not_see_each_other(task, trainee):
    one = case(task, "training", 3)
    assert one.others
    for part, other in enumerate(one.others, 2):
        alone = Case(task, [*one.turns[:-1], replace(other, images=one.turns[-1].images, marks=one.turns[-1].marks)])
        (tokens, logits), (same, expected) = answered(trainee, one, part), answered(trainee, alone, 1)
        assert tokens == same
        assert torch.allclose(logits, expected, atol=1e-4)
    (tokens, logits), (same, expected) = answered(trainee, one, 1), answered(trainee, Case(task, one.turns), 1)
    assert tokens == same
    assert torch.allclose(logits, expected, atol=1e-4)


def test_the_tokenizer_is_the_one_that_ships():
    assert demo_tokenizer().to_str() == Tokenizer.from_file(str(DEMO / "tokenizer.json")).to_str()


def test_batches_follow_from_their_numbers():
    for step in (10, 5000):
        one, again = Batches(6000, 4)[step], Batches(6000, 4)[step]
        assert torch.equal(one.ids, again.ids)
        assert all(torch.equal(a.pixels, b.pixels) for a, b in zip(one.tiles, again.tiles, strict=True))


def test_held_out_batches_ask_one_question_each():
    batch = Batches(6000, 8, "held-out")[0]
    assert int(batch.parts.max()) == 1


def test_latents_are_told_apart_by_place(trainee):
    """Each patch is told from the latent of its own cell alone."""
    latents = torch.randn(1, 16, trainee.model.config.text_config.hidden_size)
    sizes = torch.tensor([[8, 6]])
    told = trainee.recall(latents, sizes, 8).view(8, 8, -1)
    changed = latents.clone()
    changed[0, 5] += 1.0  # second row and second column of cells
    differ = (trainee.recall(changed, sizes, 8).view(8, 8, -1) != told).any(-1)[:, :6]
    assert differ.nonzero().tolist() == [[row, 2] for row in (2, 3)]
