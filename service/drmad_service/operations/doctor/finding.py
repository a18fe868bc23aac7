"""One result of an examination."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Level = Literal["ok", "warning", "error"]


@dataclass(frozen=True)
class Finding:
    """The state of one subject, and the remedy unless it is ok."""

    subject: str
    level: Level
    message: str
    advice: str = ""
