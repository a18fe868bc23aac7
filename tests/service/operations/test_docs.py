"""What docs/concepts/reliability.md and docs/reference/settings.md say is what the service does."""

from __future__ import annotations

import runpy
from pathlib import Path

from drmad_client.records.status import JobStatus
from drmad_service.store.layout.state_machine import TRANSITIONS

DOCS = Path(__file__).parents[3] / "docs"
PAGE = (DOCS / "concepts" / "reliability.md").read_text(encoding="utf-8")


def transitions_table() -> str:
    lines = ["| action | from | to |", "|---|---|---|"]
    for action, states in TRANSITIONS.items():
        targets: dict[JobStatus, list[str]] = {}
        for before, after in states.items():
            targets.setdefault(after, []).append(f"`{before}`")
        for after, befores in targets.items():
            lines.append(f"| {action} | {', '.join(befores)} | `{after}` |")
    return "\n".join(lines)


def test_transitions_are_those_of_the_table() -> None:
    assert transitions_table() in PAGE


def test_every_setting_is_on_its_page() -> None:
    written = runpy.run_path(str(DOCS / "make_settings.py"))["page"]()
    assert (DOCS / "reference" / "settings.md").read_text(encoding="utf-8") == written, (
        "write it again with: python docs/make_settings.py"
    )
