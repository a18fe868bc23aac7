"""Validations as tables for a terminal."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from drmad_client.records.side_runs.validation import RankCorrelation, ValidationReport

_COLOURS = {
    "predicts": "green",
    "in_part": "yellow",
    "own_run_only": "yellow",
    "does_not_predict": "red",
    "unknown": "yellow",
}


def validation_table(report: ValidationReport) -> RenderableType:
    """The verdict, the remedies, the rank correlations and the figures beside them."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("HYPERPARAMETER", "CHANGE"):
        table.add_column(column)
    for column in ("RETRAININGS", "RANK CORRELATION", "INTERVAL AT 95 %"):
        table.add_column(column, justify="right")
    for each in report.correlations:
        runs = f"{each.retrainings}" + (f" ({each.diverged} diverged)" if each.diverged else "")
        table.add_row(Text(each.hyperparameter), each.label, runs, *_figures(each))
    for name, mean in report.lds.items():
        table.add_row(Text(name), "all", "", *_figures(mean), style="bold")
    sentence = Text(report.verdict.sentence, _COLOURS[report.verdict.grade])
    remedies = [Text(f"- {remedy}") for remedy in report.verdict.remedies]
    if remedies:
        remedies = [Text("What to change:"), *remedies]
    return Group(sentence, *remedies, "", table, "", *map(Text, validation_lines(report)))


def validation_lines(report: ValidationReport) -> Iterable[str]:
    """The figures beside the rank correlations, line by line."""
    if report.agreement is not None:
        agreement = report.agreement
        yield (
            f"agreement between draws: cosine {agreement.cosine:.3f} (from {agreement.low:.3f} to "
            f"{agreement.high:.3f} over {agreement.draws} draws), the ceiling of every fidelity"
        )
    if report.fidelity is not None:
        yield f"cosine to the exact hypergradient of the same draw: {report.fidelity:.3f}"
    if report.unknown:
        yield f"not known: {report.unknown}"
    if report.gain is not None:
        gain = report.gain
        interval = "" if gain.low is None else f" ({gain.low:.3g} to {gain.high:.3g} at 95 %)"
        yield (
            f"one outer step lowers the validation loss by {gain.mean:.3g}{interval} on "
            f"{gain.count} other draws, {report.gain_per_run:.3g} per training run spent"
        )
    yield (
        f"method {report.method['method']}, {report.cost:.1f} training runs a meta-iteration; the "
        f"validation took {report.runs:.0f}"
    )


def _figures(correlation: RankCorrelation) -> tuple[str, str]:
    if correlation.value is None:
        return "–", ""
    if correlation.low is None or correlation.high is None:
        return f"{correlation.value:.3f}", ""
    return f"{correlation.value:.3f}", f"{correlation.low:.3f} to {correlation.high:.3f}"
