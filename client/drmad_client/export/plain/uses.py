"""What a recipe uses; the parts of the other modules that it does not use stay out of its file."""

from __future__ import annotations

USES: frozenset[str] = frozenset()
"""The names that drmad_client.export.recipe gives to the parts of a job.

A statement `if "name" in USES`, with `not`, `and` and `or`, is decided when the file is written."""
