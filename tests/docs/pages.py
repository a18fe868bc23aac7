"""The pages of the documentation, and their blocks of code."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
FENCE = re.compile(r"^( *)```(\w+)(?: file=(\S+))?\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)


class Block(NamedTuple):
    """A fenced block; `file` is where its reader saves it, or an empty string."""

    page: str
    language: str
    file: str
    text: str

    @property
    def first_line(self) -> str:
        return self.text.strip().splitlines()[0]


def pages() -> list[Path]:
    """Every page that a reader of the documentation meets; not the generated client reference."""
    found = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")]
    found += sorted((ROOT / "docs").rglob("*.md"))
    found += [ROOT / "deploy" / "kubernetes" / "README.md"]
    return found


def blocks(page: Path) -> list[Block]:
    name = page.relative_to(ROOT).as_posix()
    return [
        Block(name, language, file, text)
        for _, language, file, text in FENCE.findall(page.read_text(encoding="utf-8"))
    ]
