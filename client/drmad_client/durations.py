"""Formats durations for people."""

from __future__ import annotations


def duration(seconds: float, units: int = 2) -> str:
    """At most so many units, one or two: 41 s, 3 min 20 s, 2 h 5 min, 3 d 4 h."""
    seconds = max(0, round(seconds))
    for unit, size, part, part_size in (("d", 86400, "h", 3600), ("h", 3600, "min", 60)):
        if seconds >= size:
            rest = seconds % size // part_size
            return f"{seconds // size} {unit}" + (f" {rest} {part}" if rest and units > 1 else "")
    minutes, rest = divmod(seconds, 60)
    if not minutes:
        return f"{rest} s"
    return f"{minutes} min" + (f" {rest} s" if rest and units > 1 else "")
