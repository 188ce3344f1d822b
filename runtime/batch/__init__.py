"""Tables of questions → tables of answers, as large as a disk."""

from __future__ import annotations
