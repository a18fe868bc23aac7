"""Measurements as lines of a file."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any


class Results:
    """The measurements so far, each a line of a file if there is one."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        lines = path.read_text().splitlines() if path is not None and path.exists() else []
        self.lines: list[dict[str, Any]] = [json.loads(line) for line in lines]

    def add(self, key: dict[str, Any], measure: Callable[[], dict[str, Any]]) -> None:
        if any(key.items() <= line.items() for line in self.lines):  # was measured before
            return
        found = {**key, **measure()}
        self.lines.append(found)
        if self._path is not None:
            with self._path.open("a") as file:
                file.write(json.dumps(found) + "\n")
        print({k: round(v, 4) if isinstance(v, float) else v for k, v in found.items()}, flush=True)
