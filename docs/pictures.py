"""Draw docs/rooms.svg, from the import contract in pyproject.toml, and docs/three-graphs.svg: python docs/pictures.py"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from html import escape
from pathlib import Path

DOCS = Path(__file__).parent
ROOMS = {
    "cli": "the command line; export and verify", "demo": "the model that ships",
    "graphs": "the contract, and torch modules to trace", "on_ray": "the same work on a cluster; imports the runtime",
    "commands": "a file each: run, chat, bench, …", "model": "Idefics2, Idefics, load",
    "batch": "tables of questions", "server": "OpenAI's API, and a page",
    "vision_language_model": "a model, as an app sees it", "chat": "a conversation",
    "generation": "one call's loop", "engine": "the graphs as verbs",
    "memory": "between calls", "sampling": "the next token", "inputs": "caller → Sample",
    "devices": "where it runs", "images": "file → tiles", "text": "prompt ↔ ids ↔ text",
    "checks": "of options", "folder": "the manifest", "sample": "what meets",
    "image_tokens": "an image among ids", "outside": "hub, hosts, packages",
    "errors": "of the runtime", "parallel": "threads",
    "pipeline": "the steps, in order", "opening": "does it open?", "verification": "is it the checkpoint?",
    "processor_source": "an adapter's own files", "weights": "streamed", "quantisation": "fewer bits",
    "processor_files": "tokenizer, configs", "model_card": "README", "transformers_js": "its names",
    "source": "checkpoints, adapters", "trace": "torch → ONNX", "models": "what differs",
    "bundle": "all or nothing", "packing": "4 and 8 bits", "journal": "how far it is",
}  # fmt: skip
"""A few words about each; a floor of five has room for names only."""
FLOOR, GAP, WIDTH = 44, 8, 470
INK, PALE = "#24292f", "#57606a"
COLOURS = {"runtime": "#ddf4ff", "export": "#fff8c5", "house": "#eaeef2", "host": "#ffffff", "data": "#f6f8fa"}


def picture(width: int, height: int, parts: list[str], title: str) -> str:
    """An SVG file on white, so that it reads on dark pages too."""
    arrow = (
        '<defs><marker id="arrow" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        f'<path d="M0 0 8 4 0 8z" fill="{PALE}"/></marker></defs>'
    )
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img"'
    font = 'font-family="Helvetica, Arial, DejaVu Sans, sans-serif"'
    paper = f'<rect width="{width}" height="{height}" fill="#ffffff"/>'
    return "\n".join([f"{head} {font}>", f"<title>{escape(title)}</title>", arrow, paper, *parts, "</svg>", ""])


def box(x: float, y: float, width: float, height: float, lines: list[str], colour: str) -> str:
    """A box with its name, and smaller what it is."""
    middle, top = x + width / 2, y + height / 2 - 8 * (len(lines) - 1) + 4
    words = [
        f'<text x="{middle:g}" y="{top + 16 * i:g}" text-anchor="middle" font-size="{13 if i == 0 else 11}" '
        f'font-weight="{"bold" if i == 0 else "normal"}" fill="{INK if i == 0 else PALE}">{escape(line)}</text>'
        for i, line in enumerate(lines)
    ]
    frame = f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="6" fill="{colour}" stroke="{PALE}"/>'
    return "".join([frame, *words])


def words(x: float, y: float, text: str, anchor: str = "start") -> str:
    return f'<text x="{x:g}" y="{y:g}" font-size="11" fill="{PALE}" text-anchor="{anchor}">{escape(text)}</text>'


def arrow(*points: tuple[float, float]) -> str:
    path = " ".join(f"{x:g},{y:g}" for x, y in points)
    return f'<polyline points="{path}" fill="none" stroke="{PALE}" marker-end="url(#arrow)"/>'


def tower(layers: list[str], left: float, top: float, colour: str) -> Iterator[str]:
    """Layers as floors, the door on top; rooms of one floor side by side."""
    for floor, layer in enumerate(layers):
        rooms = layer.split(" | ")
        width = (WIDTH - GAP * (len(rooms) - 1)) / len(rooms)
        for place, room in enumerate(rooms):
            lines = [room, ROOMS[room]] if len(rooms) < 5 else [room]
            yield box(left + place * (width + GAP), top + floor * (FLOOR + GAP), width, FLOOR, lines, colour)


def rooms() -> str:
    """The contracts' floors: what stands higher may import what stands lower, and nothing beside it or above it."""
    contracts = tomllib.loads((DOCS.parent / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    layers = {tuple(c.get("containers", [])): c["layers"] for c in contracts if c["type"] == "layers"}
    runtime, export = layers["idefics2_onnx.runtime",], layers["idefics2_onnx.export",]
    house = [layer.replace("idefics2_onnx.", "").split(" | ") for layer in layers[()]]
    doors, ground, beside = house[0], house[-1], [name for name in house[1] if name != "export"]
    tall = max(len(runtime), len(export)) * (FLOOR + GAP)
    whole, top, right = 2 * WIDTH + 40, 20 + FLOOR + 40, 20 + WIDTH + 40
    parts = [
        box(20 + i * (whole + GAP) / len(doors), 20, (whole + GAP) / len(doors) - GAP, FLOOR, [n, ROOMS[n]], COLOURS["house"])
        for i, n in enumerate(doors)
    ]
    parts.append(words(20, top - 10, "runtime/, which has no torch"))
    parts.append(words(right, top - 10, "export/, which may import runtime's ground"))
    parts += [*tower(runtime, 20, top, COLOURS["runtime"]), *tower(export, right, top, COLOURS["export"])]
    bottom = top + tall + 10
    lowest = top + len(export) * (FLOOR + GAP)
    parts += [
        words(right, lowest + 24, "A room may import what stands below it in its tower,"),
        words(right, lowest + 40, "never what stands beside it on its floor or above it."),
    ]
    parts += [box(right, bottom - 10 - FLOOR - GAP, WIDTH, FLOOR, [n, ROOMS[n]], COLOURS["house"]) for n in beside]
    parts += [box(20, bottom, whole, FLOOR, [n, ROOMS[n]], COLOURS["house"]) for n in ground]
    return picture(whole + 40, bottom + FLOOR + 20, parts, "Who may import whom: the rooms of idefics2_onnx")


def three_graphs() -> str:
    """What goes in and out of each graph, and what the host does between them."""
    host, graph, data = COLOURS["host"], COLOURS["runtime"], COLOURS["data"]
    parts = [
        box(20, 30, 150, 56, ["picture", "cut and resize"], host),
        box(20, 190, 150, 56, ["prompt", "expand tags, tokenize"], host),
        box(330, 30, 150, 56, ["vision.onnx", "SigLIP and connector"], graph),
        box(330, 190, 150, 56, ["embedding.onnx", "ids and features"], graph),
        box(620, 190, 150, 56, ["decoder.onnx", "Mistral"], graph),
        box(620, 30, 150, 56, ["keys and values", "one buffer per layer"], data),
        box(620, 330, 150, 56, ["choose a token", "and stop at an end token"], host),
        arrow((170, 58), (328, 58)), words(180, 50, "pixel_values"),
        arrow((405, 86), (405, 188)), words(413, 140, "image_features"),
        arrow((170, 218), (328, 218)), words(180, 210, "input_ids"), words(180, 234, "feature_rows"),
        arrow((480, 218), (618, 218)), words(490, 210, "inputs_embeds"),
        words(490, 256, "attention_mask"), words(490, 272, "logit_positions"), arrow((580, 252), (600, 252), (618, 240)),
        arrow((670, 86), (670, 188)), words(662, 140, "past", "end"),
        arrow((720, 188), (720, 88)), words(728, 140, "present"),
        arrow((695, 246), (695, 328)), words(703, 292, "logits"),
        arrow((618, 358), (405, 358), (405, 248)), words(500, 350, "the new token's id", "middle"),
    ]  # fmt: skip
    return picture(810, 406, parts, "The three graphs and what goes between them")


PICTURES = {"rooms.svg": rooms, "three-graphs.svg": three_graphs}

if __name__ == "__main__":
    for name, draw in PICTURES.items():
        (DOCS / name).write_text(draw())
