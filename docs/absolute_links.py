"""Make the links of a document to files beside it absolute, for the package index: absolute_links.py README.md URL"""

from __future__ import annotations

import re
import sys
from pathlib import Path

_LINK = re.compile(r"(!?\[[^\]]*\]\()(?!\w+:|#)([^)\s]+)(\))")


def absolute(text: str, base: str) -> str:
    """Links with `base` in front; pictures are asked for raw."""

    def link(found: re.Match[str]) -> str:
        raw = "?raw=true" if found[1].startswith("!") else ""
        return f"{found[1]}{base}/{found[2]}{raw}{found[3]}"

    return _LINK.sub(link, text)


if __name__ == "__main__":
    document, base = Path(sys.argv[1]), sys.argv[2].rstrip("/")
    document.write_text(absolute(document.read_text("utf-8"), base), "utf-8")
