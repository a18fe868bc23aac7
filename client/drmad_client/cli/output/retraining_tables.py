"""Retrainings as tables for a terminal."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from drmad_client.records.side_runs.retraining import RetrainingReport, is_share, plus_minus
from drmad_client.records.side_runs.validation import MeanInterval


def retraining_table(report: RetrainingReport) -> RenderableType:
    """Every held-out figure of both recipes, and at last the answer in a line."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("FIGURE")
    for column in ("TUNED", "UNTUNED", "DIFFERENCE", "INTERVAL AT 95 %"):
        table.add_column(column, justify="right")
    for name, each in report.figures.items():
        shown = [plus_minus(arm, is_share(name)) for arm in (each.tuned, each.untuned)]
        table.add_row(name, *shown, *_difference(each.difference))
    return Group(Text(report.conditions), "", table, "", Text(report.headline, "bold"))


def _difference(difference: MeanInterval | None) -> tuple[str, str]:
    if difference is None:
        return "–", ""
    ends = "" if difference.low is None else f"{difference.low:+.4g} to {difference.high:+.4g}"
    return f"{difference.mean:+.4g}", ends
