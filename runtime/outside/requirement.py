"""The packages that this one needs: the versions that its own metadata names, and those that are installed."""

from __future__ import annotations

import json
import traceback
from dataclasses import dataclass
from pathlib import Path

from ..errors import first_line

_PACKAGE = "idefics2-onnx"
_INDIRECT = (("export", "safetensors"),)
"""What an extra's packages bring."""


@dataclass(frozen=True)
class Requirement:
    """One package.

    Attributes:
        needed: versions as pip writes them, such as ">=5.23,<5.24".
        found: the version that is installed; None if none is.
    """

    name: str
    needed: str
    found: str | None
    fits: bool

    def __str__(self) -> str:
        return f"{self.name} {self.found or 'is not installed'} ({self.needed} needed)"


def own_version() -> str:
    """This package's version by its metadata, which a frozen app may lack."""
    import importlib.metadata  # not above: the command line's help is to be quick

    try:
        return importlib.metadata.version(_PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        return "of an unknown version"


def requirements(extra: str = "") -> list[Requirement]:
    """What the package needs at all, or (by an extra's name) what that extra adds; empty in an app without its metadata."""
    import importlib.metadata

    from packaging.requirements import InvalidRequirement
    from packaging.requirements import Requirement as Line

    try:
        lines = importlib.metadata.requires(_PACKAGE) or []
    except importlib.metadata.PackageNotFoundError:
        return []
    found = []
    for text in lines:
        try:
            line = Line(text)
        except InvalidRequirement:
            continue
        always = line.marker is None or line.marker.evaluate({"extra": ""})
        if always if not extra else not always and line.marker is not None and line.marker.evaluate({"extra": extra}):
            found.append(_requirement(line.name, ",".join(sorted(map(str, line.specifier), reverse=True))))
    return found


def unfit(*extras: str) -> list[Requirement]:
    """Those that are installed in a version that does not fit, of the package's own and of some extras."""
    needed = [*requirements(), *(each for extra in extras for each in requirements(extra))]
    return [each for each in needed if each.found and not each.fits]


def explain(error: Exception, *extras: str) -> str:
    """An exception in one sentence if a package that is missing, broken or of another version is to blame; else nothing."""
    module = (getattr(error, "name", None) or "").partition(".")[0]
    name = {"PIL": "pillow"}.get(module, module).replace("_", "-")
    if isinstance(error, ModuleNotFoundError) and name:
        for extra in ("", *extras):
            if name in [each.name.replace("_", "-") for each in requirements(extra)] or (extra, name) in _INDIRECT:
                doing = "Exporting needs" if extra == "export" else "This needs"
                return f"{doing} {error.name}, which is not installed. Run: {install(extra)}"
    others = unfit(*extras)
    if others:
        extra = next((extra for extra in extras if any(each in others for each in requirements(extra))), "")
        return f"This does not work with {', '.join(map(str, others))}: {first_line(error)}. Run: {install(extra)}"
    frames = traceback.extract_tb(error.__traceback__)
    if frames and Path(frames[-1].filename).parts[-2:] == ("huggingface_hub", "constants.py"):
        return f"A variable that huggingface_hub reads has no such value ({first_line(error)}). Check those that begin with HF_."
    if isinstance(error, ImportError) and name != _PACKAGE:
        return f"A package that is installed cannot be imported ({first_line(error)}). Run: {install(*extras[:1])}"
    return ""


def install(extra: str = "") -> str:
    """The command that installs the package, with an extra, from where this one came: an index, a folder or a repository."""
    named = f"{_PACKAGE}[{extra}]" if extra else _PACKAGE
    source = _source()
    if Path(source).is_absolute():
        named = f"{source}[{extra}]" if extra else source
    elif source:
        named = f"{named} @ {source}"
    return f"pip install '{named}'" if set(named) & set("[ ") else f"pip install {named}"


def _source() -> str:
    """Path or address that pip has installed the package from, by what it wrote down; empty for an index."""
    import importlib.metadata
    from urllib.parse import urlsplit
    from urllib.request import url2pathname

    try:
        written = json.loads(importlib.metadata.distribution(_PACKAGE).read_text("direct_url.json") or "{}")
        url, repository = str(written.get("url", "")), written.get("vcs_info", {})
        if repository:
            return f"{repository['vcs']}+{url}@{repository['commit_id']}"
        if urlsplit(url).scheme != "file":
            return url
        path = url2pathname(urlsplit(url).path)
        return path if Path(path).exists() else ""
    except (importlib.metadata.PackageNotFoundError, OSError, ValueError, KeyError, TypeError, AttributeError):
        return ""


def _requirement(name: str, needed: str) -> Requirement:
    import importlib.metadata

    from packaging.specifiers import SpecifierSet
    from packaging.version import InvalidVersion

    try:
        found: str | None = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        found = None
    try:
        fits = found is not None and SpecifierSet(needed).contains(found, prereleases=True)
    except InvalidVersion:
        fits = False
    return Requirement(name, needed or "any", found, fits)
