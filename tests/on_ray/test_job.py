"""`batch --ray`: the rows of `batch`, and one sentence for what goes wrong. Kills: tests/by_hand/ray_kills.py."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from shutil import copytree, rmtree

import pytest
from idefics2_onnx.demo.tasks import case
from idefics2_onnx.runtime.batch.answers import Answers
from idefics2_onnx.runtime.batch.columns import Columns
from idefics2_onnx.runtime.batch.recipe import recipe
from idefics2_onnx.runtime.batch.row import fields_of
from idefics2_onnx.runtime.batch.sources import sources
from idefics2_onnx.runtime.folder import DEMO, ModelFolder

pytest.importorskip("ray")
pytestmark = pytest.mark.scale
QUESTION = "What is in the picture?"
TIMES = ("seconds_waiting", "seconds_images", "seconds_prompt", "seconds_answer")
DIES = """
import os, signal, sys
if "default_worker.py" in " ".join(sys.orig_argv):
    from idefics2_onnx.runtime.generation.scheduler import Scheduler
    Scheduler.submit = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
"""
"""What the system does to a process that takes too much memory, in workers only."""


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Twelve pictures, one of them damaged."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("IDEFICS2_ONNX_MODEL", raising=False)
    Path("photos").mkdir()
    for number in range(12):
        case("shapes", "held-out", number).turns[0].images[0].save(f"photos/{number:02}.png")
    damaged = Path("photos/05.png")
    damaged.write_bytes(damaged.read_bytes()[:200])
    return tmp_path


def batch(*arguments, **environment):
    command = [sys.executable, "-m", "idefics2_onnx", "batch", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=180, env={**os.environ, **environment})


def rows(name):
    found = [json.loads(line) for line in Path(name).read_text("utf-8").splitlines()]
    return [{column: value for column, value in row.items() if column not in TIMES} for row in found]


def last_line(run):
    return run.stderr.strip().splitlines()[-1]


def test_addresses_and_parquet(place):
    """A folder, a pattern and a table at addresses; what is read is what `batch` reads on the disk."""
    import pyarrow.parquet

    Path("table.jsonl").write_text(
        '{"image": "photos/01.png", "prompt": "What does the sign say?"}\n{"image": "none.png"}\n{"prompt": "Hello?"}\n'
    )
    inputs = ["photos", "table.jsonl"]
    addresses = [f"file://{place}/photos/0*.png", f"fsspec+local://{place}/photos", f"file://{place}/table.jsonl"]
    options = ["--prompt", QUESTION, "--max-new-tokens", 12]
    assert batch(*inputs, "-o", "disk.jsonl", *options).returncode == 1
    (place / "tmp").mkdir()
    places = {"TMPDIR": str(place / "tmp"), "RAY_TMPDIR": "/tmp"}  # Ray wants a short path for its sockets
    run = batch(*addresses, "-o", "there.parquet", *options, "--ray", "local", "--batch-size", 3, **places)
    assert run.returncode == 1, run.stderr
    disk, there = rows("disk.jsonl"), pyarrow.parquet.read_table("there.parquet").to_pylist()
    assert len(there) == 10 + 12 + 3
    wanted = disk[:10] + disk
    for row, expected in zip(there, wanted, strict=True):
        assert (row["answer"], row["prompt"], row["new_tokens"]) == tuple(
            expected[name] for name in ("answer", "prompt", "new_tokens")
        )
        assert (row["error"] is None) == (expected["error"] is None)
        assert row["id"].endswith(expected["id"])
    assert there[0]["images"] == [f"file://{place}/photos/00.png"]
    assert not list((place / "tmp").glob("idefics2-onnx-*"))  # copies of the table, also of processes that Ray ended
    again = batch(*addresses, "-o", "there.parquet", *options, "--ray", "local", "--batch-size", 3)
    assert "answering" not in again.stderr  # nothing is left to ask


def test_a_worker_that_dies_for_want_of_memory_is_one_sentence(place):
    Path("site").mkdir()
    Path("site/sitecustomize.py").write_text(DIES)
    run = batch("photos", "-o", "out.jsonl", "--prompt", QUESTION, "--ray", "local", PYTHONPATH=str(place / "site"))
    assert run.returncode == 1
    assert last_line(run).startswith("Error: Actors died 4 times without an answer between, as they do where memory is short")
    assert "Traceback" not in run.stderr
    whole = batch("photos", "-o", "out.jsonl", "--prompt", QUESTION, "--ray", "local")
    assert "1 of 12 rows have an error" in last_line(whole)


def test_a_model_folder_that_a_node_lacks_is_one_sentence(place):
    from idefics2_onnx.on_ray.errors import RayError
    from idefics2_onnx.on_ray.job import answer
    from idefics2_onnx.on_ray.opening import Opening

    copytree(DEMO, "model")
    folder = ModelFolder.open(Path("model"))
    opening = Opening.of(folder, "cpu", 1, 4)
    found = sources(["photos"], Columns("image", "prompt", QUESTION))
    with Answers(Path("out.jsonl"), recipe(folder, {}), False, partial(fields_of, options={})) as answers:
        for spoil, said in (
            (lambda: Path("model/idefics2_onnx.json").write_text("{}"), "cannot open the model"),
            (lambda: rmtree("model"), "is not a folder"),
        ):
            spoil()
            with pytest.raises(RayError, match=f"Node .*{said}"):
                list(answer("local", found, answers, opening, actors=1, ordered=True, rows=4, options={}))
    assert not Path("out.jsonl").read_bytes()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--ray", "127.0.0.1:1"], "There is no Ray at '127.0.0.1:1'"),
        (["--ray", "head"], "There is no Ray at 'head' (it has no port)"),
        (["--ray", "ray://127.0.0.1:10001"], "is for Ray's client"),
        (["--ray-actors", "2"], "go with --ray"),
        (["--ray", "local", "-O", "num_beams=3"], "num_beams"),
        (["--ray", "local", "--ray-cpus-per-actor", "1024"], "An actor is to have 1,024 cores, and this machine has"),
        (["--ray", "local", "--device", "cuda"], "room for 0 of 1 actors, each with a GPU"),
        (["--ray", "local", "--device", "cuda:1"], "names one by its number"),
    ],
)
def test_what_is_wrong_is_one_sentence(place, options, said):
    run = batch("photos", "-o", "out.jsonl", "--prompt", QUESTION, *options)
    assert run.returncode in (1, 2)
    assert said in last_line(run), run.stderr
    assert "Traceback" not in run.stderr


def test_a_model_that_changes_between_two_runs_is_said(place):
    """Whoever trains on and exports into the same folder gets no table of two models."""
    copytree(DEMO, "model")
    some = ["photos/0[0-3].png", "-m", "model", "-o", "out.jsonl", "--prompt", QUESTION, "--ray", "local"]
    assert batch(*some).returncode == 0
    before = Path("out.jsonl").read_bytes()
    manifest = Path("model/idefics2_onnx.json")
    manifest.write_text(manifest.read_text("utf-8").rstrip() + "\n\n", "utf-8")
    run = batch("photos", *some[1:])
    assert run.returncode == 1
    assert "out.jsonl was made with another model" in last_line(run), run.stderr
    assert Path("out.jsonl").read_bytes() == before


def test_actors_that_no_node_has_room_for_are_one_sentence(monkeypatch):
    from idefics2_onnx.on_ray import cluster
    from idefics2_onnx.on_ray.errors import RayError
    from idefics2_onnx.on_ray.opening import Opening, memory_bytes

    demo = ModelFolder.open()
    assert memory_bytes(demo, 32, False) - memory_bytes(demo, 16, False) == 16 * 2048 * 2 * 4 * 2 * 32 * 2  # fp16 keys and values
    opening = Opening.of(demo, "cpu", 2, 16)
    nodes = [{"Alive": alive, "Resources": {"CPU": 5.0, "memory": 1.5 * opening.memory}} for alive in (True, True, False)]
    monkeypatch.setattr(cluster.ray, "nodes", lambda: nodes)
    cluster._check_room(opening, 2)
    with pytest.raises(
        RayError, match="2 nodes of Ray's have room for 2 of 3 actors, each with 2 CPUs and .* GB of memory. Give fewer"
    ):
        cluster._check_room(opening, 3)


def test_map_batches(place, on_ray):
    """Answers as columns, whatever the pictures are; the schema is known without an answer."""
    import ray.data
    from idefics2_onnx import Idefics2
    from idefics2_onnx.on_ray import map_batches

    paths = [str(path) for path in sorted((place / "photos").iterdir())]
    records = [
        {"path": path, "image": Path(path).read_bytes() if number % 2 else f"file://{path}"} for number, path in enumerate(paths)
    ]
    expected = [
        None if "05" in path else Idefics2.from_pretrained().generate(QUESTION, path, max_new_tokens=8).text for path in paths
    ]
    for kind in (0, 1):
        table = ray.data.from_items(records[kind::2])
        found = map_batches(table, QUESTION, rows=4, max_new_tokens=8).take_all()
        assert [row["answer"] for row in sorted(found, key=lambda row: row["path"])] == expected[kind::2]
        assert all((row["error"] is None) == (row["answer"] is not None) for row in found)
