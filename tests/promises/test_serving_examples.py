"""What examples/serving/ says exists: options, paths, metrics. tests/by_hand/serving_steps.py does the Dockerfile's steps."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from idefics2_onnx.cli import main
from idefics2_onnx.runtime.commands.serve import KEY_VARIABLE
from patience import until

ROOT = next(folder for folder in Path(__file__).parents if (folder / "pyproject.toml").is_file())
SERVING = ROOT / "examples" / "serving"
UNIT = SERVING / "idefics2-onnx.service"


def parsed(arguments):
    """The options of a command line, as the command reads them."""
    name, *rest = arguments
    assert name == "serve"
    return main.commands[name].make_context(name, list(rest)).params


def test_the_board_shows_metrics_that_there_are():
    pytest.importorskip("prometheus_client")
    from idefics2_onnx import Idefics2
    from idefics2_onnx.runtime.server import create_app
    from starlette.testclient import TestClient

    board = json.loads((SERVING / "grafana.json").read_text())
    expressions = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    named = {name for one in expressions for name in re.findall(r"idefics2_onnx:\w+", one)}
    with Idefics2.from_pretrained(device="cpu") as model, TestClient(create_app(model), base_url="http://localhost") as client:
        until(lambda: client.get("/ready").status_code == 200)
        body = {"messages": [{"role": "user", "content": "Is there a star?"}], "max_tokens": 4}
        assert client.post("/v1/chat/completions", json=body).status_code == 200
        assert client.post("/v1/chat/completions", json={}).status_code == 400
        text = client.get("/metrics").text
    shown = {re.match(r"[\w:]+", line)[0] for line in text.splitlines() if not line.startswith("#")}
    assert named <= shown, sorted(named - shown)
    families = {re.sub(r"_(bucket|sum|count|created|total)$", "", name) for name in shown}
    drawn = {re.sub(r"_(bucket|sum|count|created|total)$", "", name) for name in named}
    assert families == drawn, sorted(families - drawn)
    labels = dict(re.findall(r"^(idefics2_onnx:\w+_total)\{(\w+)=", text, re.MULTILINE))
    for metric, label in labels.items():
        assert any(f"by ({label})" in one and metric in one for one in expressions), metric


def test_panels_do_not_overlap():
    panels = json.loads((SERVING / "grafana.json").read_text())["panels"]
    cells = [
        (x, y)
        for place in (panel["gridPos"] for panel in panels)
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) < 24
    assert len({panel["id"] for panel in panels}) == len(panels)


def test_the_image_starts_a_command_that_there_is():
    text = (SERVING / "Dockerfile").read_text()
    (command,) = re.findall(r"^CMD (\[.+\])$", text, re.MULTILINE)
    options = parsed(json.loads(command))
    assert (options["host"], options["port"], options["model"]) == ("0.0.0.0", 8000, "/model")
    assert "EXPOSE 8000" in text
    assert re.search(r"^USER [1-9]", text, re.MULTILINE)
    for line in re.findall(r"^COPY ([\w.]+) ", text, re.MULTILINE):
        assert (ROOT / line).exists(), line
    extras = (ROOT / "pyproject.toml").read_text()
    assert all(f"\n{extra} = [" in extras for extra in ("cpu", "gpu", "serve"))
    for line in (SERVING / "Dockerfile.dockerignore").read_text().split():
        assert line[0] != "!" or list(ROOT.glob(line[1:])), line


def test_compose_names_what_there_is():
    yaml = pytest.importorskip("yaml")
    services = yaml.safe_load((SERVING / "compose.yaml").read_text())["services"]
    for service in services.values():
        assert (SERVING / service["build"]["context"]).resolve() == ROOT
        assert (ROOT / service["build"]["dockerfile"]).is_file()
        assert list(service["environment"]) == [KEY_VARIABLE]
        assert service["volumes"][0].endswith(":/model:ro")
        assert all(port.startswith("127.0.0.1:") for port in service["ports"])
        assert int(service["stop_grace_period"].removesuffix("s")) > parsed(["serve"])["shutdown_timeout"]
    scraped = yaml.safe_load((SERVING / "prometheus.yml").read_text())["scrape_configs"][0]
    assert scraped.get("metrics_path", "/metrics") == "/metrics"
    assert scraped["static_configs"] == [{"targets": [f"127.0.0.1:{parsed(['serve'])['port']}"]}]


def test_the_unit_is_one(tmp_path):
    text = UNIT.read_text()
    (command,) = re.findall(r"^ExecStart=(.+)$", text, re.MULTILINE)
    options = parsed(command.split()[1:])
    assert (options["host"], options["model"]) == ("127.0.0.1", "/srv/idefics2-onnx/model")
    assert KEY_VARIABLE in text
    assert int(re.search(r"^TimeoutStopSec=(\d+)$", text, re.MULTILINE)[1]) > options["shutdown_timeout"]
    if shutil.which("systemd-analyze") is None:
        pytest.skip("there is no systemd-analyze")
    copy = tmp_path / UNIT.name
    copy.write_text(text.replace(command.split()[0], sys.executable))
    verified = subprocess.run(["systemd-analyze", "--man=no", "verify", copy], capture_output=True, text=True)
    assert (verified.returncode, verified.stderr) == (0, "")
