"""A sample of the fuzz of hostile input, without its limits; `make test-hostile` tries 6,000 cases."""

from __future__ import annotations

import random
import sys

import hostile_calls as calls
import hostile_checkpoints as checkpoints
import hostile_folders as folders
import hostile_fuzz
import hostile_words as words
import pytest
from hostile_place import Place
from hostile_values import drawn

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the fuzz needs Linux's /proc")
QUICK = [
    kind for kind in hostile_fuzz.KINDS if kind not in (checkpoints.exports, words.templates, words.tokenizers, folders.graphs)
]


@pytest.fixture(scope="module")
def honest(tmp_path_factory):
    """The checkpoint and the adapter that cases change."""
    return checkpoints.write_honest(tmp_path_factory.mktemp("honest"))


@pytest.mark.parametrize("kind", QUICK, ids=lambda kind: kind.__name__)
def test_hostile_input_is_refused_or_works(kind, honest, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "canary").mkdir()
    for number in range(4):
        (tmp_path / str(number)).mkdir()
        place = Place(tmp_path / str(number), tmp_path / "canary", *honest, drawn("json", 0, 20), drawn("messages", 0, 20))
        outcome = hostile_fuzz.tried(kind.__name__, kind(random.Random(f"sample/{number}"), place))
        assert not outcome.wrong, outcome.wrong


def test_what_is_wrong_is_seen():
    """The judge itself."""
    assert "ZeroDivisionError" in hostile_fuzz.tried("x", lambda: 1 / 0).wrong
    assert hostile_fuzz.tried("x", lambda: calls.run_command(["run", "-O", "x=1", "Hi"])).wrong == ""
