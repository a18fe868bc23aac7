"""Attributions as tables for a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from drmad_client.records.side_runs.attribution import (
    AttributedQuery,
    AttributionReport,
    ExampleInfluence,
)
from drmad_client.records.side_runs.validation import MeanInterval, RankCorrelation


def attribution_table(report: AttributionReport, top: int, most_queries: int) -> RenderableType:
    """The helpers and the harmers of the first queries, the groups and the figures beside them."""
    parts: list[RenderableType] = []
    for query in report.queries[:most_queries]:
        parts += [Text(_title(query), "bold"), _examples(query, top), *_groups(query), Text("")]
    left = report.query_count - len(report.queries[:most_queries])
    if left:
        parts.append(Text(f"{left} more queries: --out FILE writes the scores of all of them."))
    return Group(*parts, *map(Text, attribution_lines(report)))


def attribution_lines(report: AttributionReport) -> Iterable[str]:
    """The figures beside the examples, line by line."""
    yield (
        f"influence: change of the value when the row is left out of the training; the "
        f"{report.rows} rows by {report.method['method']}, {report.cost:.1f} training runs for "
        f"{report.query_count} queries and {report.draws} draws"
    )
    if report.agreement is not None:
        yield f"agreement between draws: cosine {report.agreement:.3f}"
    if report.lds is not None:
        lost = f", {report.diverged} diverged" if report.diverged else ""
        yield (
            f"LDS: {correlation(report.lds)} over {report.retrainings} training runs without "
            f"{100 * (report.left_out or 0.0):g} % of the rows{lost}"
        )


def correlation(found: RankCorrelation) -> str:
    """ "0.912 (0.850 to 0.950 at 95 %)"."""
    if found.value is None:
        return "–"
    if found.low is None or found.high is None:
        return f"{found.value:.3f}"
    return f"{found.value:.3f} ({found.low:.3f} to {found.high:.3f} at 95 %)"


def _mean(interval: MeanInterval) -> str:
    if interval.low is None or interval.high is None:
        return f"{interval.mean:.4g}"
    return f"{interval.mean:.4g} ± {(interval.high - interval.low) / 2:.2g}"


def _title(query: AttributedQuery) -> str:
    judged = "" if query.lds is None else f", LDS {correlation(query.lds)}"
    return f"{query.name}: {query.value:.4g}{judged}"


def _examples(query: AttributedQuery, top: int) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    groups = list(query.helpers[0].groups) if query.helpers else []
    for side in ("HELPS", "HARMS"):
        table.add_column(side, justify="right")
        table.add_column("INFLUENCE", justify="right")
        for group in groups:
            table.add_column(group.upper())
    for helper, harmer in zip(query.helpers[:top], query.harmers[:top], strict=True):
        table.add_row(*_cells(helper, groups), *_cells(harmer, groups))
    return table


def _cells(example: ExampleInfluence, groups: Sequence[str]) -> list[str]:
    labels = [example.groups.get(group, "") for group in groups]
    return [f"row {example.row}", f"{example.influence:+.3g}", *labels]


def _groups(query: AttributedQuery) -> list[RenderableType]:
    if not query.groups:
        return []
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("GROUP")
    for column in ("ROWS", "SUM OF INFLUENCE"):
        table.add_column(column, justify="right")
    for each in query.groups[:20]:
        table.add_row(f"{each.group} {each.label}", f"{each.rows}", f"{each.influence:+.3g}")
    return [Text(""), table]
