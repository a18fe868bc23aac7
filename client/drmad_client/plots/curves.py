"""Figures of a job's history: curves over its meta-iterations."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from drmad_client.plots import panels
from drmad_client.plots.panels import Figure, Panel
from drmad_client.records.hyperparameters import HyperparameterInfo, HyperparameterSummary
from drmad_client.records.meta_iteration import MetaIteration

HistoryRecord = MetaIteration | Mapping[str, Any]

MAX_HEATMAP_CELLS = 10_000
_MAX_LINES = 8  # the number of distinct colours
_NO_HISTORY = "no meta-iteration is committed yet"

_BLUE, _DARK, _PALE, _PALER = (
    "#3f87c9",
    "#1f4f7d",
    "rgba(63, 135, 201, 0.35)",
    "rgba(63, 135, 201, 0.15)",
)
_PHASES = ("forward", "evaluate", "backward")


def losses(history: Sequence[HistoryRecord]) -> Figure:
    """Validation, training and test loss over the meta-iterations, above a panel of the errors.

    The smoothed validation loss has its band at 95 %.
    """
    records = _records(history)
    if not records:
        return panels.empty(_NO_HISTORY)
    columns = {
        "validation": [record.validation_loss for record in records],
        "training": [record.training_loss for record in records],
    }
    names = dict.fromkeys(name for record in records for name in record.metrics)
    shares: dict[str, Sequence[float | None]] = {}
    for name in names:
        values = [record.metrics.get(name) for record in records]
        if name.endswith("_loss"):
            columns[name.removesuffix("_loss")] = values  # type: ignore[assignment]
        elif name.endswith("_error"):
            shares[name.removesuffix("_error")] = values
    count = len(columns) + len(shares)
    x = _iterations(records)
    data = [panels.line(x, y, name, count, legendgroup=name) for name, y in columns.items()]
    data += _smoothed(records, count)
    best = _best(records)
    if best is not None:
        data.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": "best",
                "x": [best.iteration],
                "y": [panels.rounded(_level(best))],
                "marker": {"symbol": "star", "size": 11},
            }
        )
    rows: list[Panel] = [("loss", data, {})]
    if shares:
        errors = [panels.line(x, y, f"{name} error", count) for name, y in shares.items()]
        rows.append(("error", errors, {"tickformat": ".1%", "rangemode": "tozero"}))
    return panels.stacked(rows, showlegend=True)


def hyperparameters(
    history: Sequence[HistoryRecord], infos: Sequence[HyperparameterInfo] = ()
) -> Figure:
    """Median, quartiles and extremes of each hyperparameter, in the user's units."""
    records = _records(history)
    names = list(dict.fromkeys(name for record in records for name in record.hyperparameters))
    if not names:
        return panels.empty(_NO_HISTORY)
    logarithmic = {info.name for info in infos if info.transform == "exp"}
    rows: list[Panel] = []
    for name in names:
        having = [record for record in records if name in record.hyperparameters]
        x = _iterations(having)
        summaries = [record.hyperparameters[name] for record in having]
        axis = {"type": "log"} if name in logarithmic else {}
        rows.append((name, _bands(x, summaries, 5 * len(names)), axis))
    return panels.stacked(rows, showlegend=False)


def layers(history: Sequence[HistoryRecord], infos: Sequence[HyperparameterInfo] = ()) -> Figure:
    """A heatmap of the median of each layer's hyperparameters over the meta-iterations."""
    records = _records(history)
    logarithmic = {info.name for info in infos if info.transform == "exp"}
    cells: dict[str, dict[int, float | None]] = {}
    for column, record in enumerate(records):
        for name, summary in record.hyperparameters.items():
            for label, value in _medians(name, summary).items():
                value = math.log10(value) if name in logarithmic and value > 0.0 else value
                cells.setdefault(label, {})[column] = panels.rounded(value)
    if not cells:
        return panels.empty(_NO_HISTORY)
    kept = panels.evenly(len(records), max(2, MAX_HEATMAP_CELLS // len(cells)))
    unit = "log₁₀ of the median" if logarithmic else "median"
    x = [records[column].iteration for column in kept]
    trace = {
        "type": "heatmap",
        "x": x,
        "y": list(cells),
        "z": [[row.get(column) for column in kept] for row in cells.values()],
        "colorscale": "Viridis",
        "colorbar": {"title": {"text": unit}},
        "hovertemplate": "meta-iteration %{x}<br>%{y}<br>%{z}<extra></extra>",
    }
    layout = {
        "xaxis": {"title": {"text": "meta-iteration"}, **panels.whole_ticks(x)},
        "yaxis": {"autorange": "reversed", "automargin": True, "type": "category"},
    }
    return {"data": [trace], "layout": layout}


def hypergradient_norms(history: Sequence[HistoryRecord]) -> Figure:
    """Euclidean norm of the hypergradient, in raw units: in total and by group.

    If there are many groups, those with the largest norms are drawn.
    """
    records = _records(history)
    if not records:
        return panels.empty(_NO_HISTORY)
    columns: dict[str, dict[int, float]] = {"all": {}}
    for record in records:
        columns["all"][record.iteration] = record.hypergradient_norm
        for name, summary in record.hyperparameters.items():
            norms = {group.label: group.hypergradient_norm for group in summary.groups}
            for label, norm in (norms or {name: summary.hypergradient_norm}).items():
                columns.setdefault(label, {})[record.iteration] = norm
    if len(columns) == 2:
        del columns["all"]  # it equals the only group
    largest = sorted(columns, key=lambda label: max(columns[label].values()), reverse=True)
    columns = {label: columns[label] for label in columns if label in largest[:_MAX_LINES]}
    data = _lines(columns)
    return panels.stacked([("norm", data, {"type": "log", "exponentformat": "e"})], showlegend=True)


def cosines(history: Sequence[HistoryRecord]) -> Figure:
    """Cosine of each hypergradient to the previous one, and of each replica's to their mean."""
    records = _records(history)
    columns: dict[str, dict[int, float]] = {}
    for record in records:
        if record.cosine_to_previous is not None:
            columns.setdefault("to the previous one", {})[record.iteration] = (
                record.cosine_to_previous
            )
        for figures in record.replicas if len(record.replicas) > 1 else ():
            name = f"replica {figures.replica} to the mean"
            columns.setdefault(name, {})[record.iteration] = figures.cosine_to_mean
    if not columns:
        return panels.empty("a cosine needs two meta-iterations or two replicas")
    data = _lines(columns)
    return panels.stacked([("cosine", data, {"range": [-1.05, 1.05]})], showlegend=True)


def staleness(history: Sequence[HistoryRecord]) -> Figure:
    """Staleness of the hypergradients of an asynchronous job: mean and maximum per meta-iteration.

    The staleness of a hypergradient is the number of updates that other replicas applied while it
    was computed.
    """
    records = [record for record in _records(history) if record.replicas]
    if not records:
        return panels.empty(_NO_HISTORY)
    x = _iterations(records)
    arrivals = [[float(arrival.staleness) for arrival in record.replicas] for record in records]
    data = [
        panels.line(x, [max(each) for each in arrivals], "largest", 2),
        panels.line(x, [panels.mean(each) for each in arrivals], "mean", 2),
    ]
    return panels.stacked([("updates", data, {"rangemode": "tozero"})], showlegend=True)


def seconds(history: Sequence[HistoryRecord]) -> Figure:
    """Duration of each meta-iteration by phase, in seconds; `other` is the rest."""
    records = _records(history)
    if not records:
        return panels.empty(_NO_HISTORY)
    names = dict.fromkeys(name for record in records for name in record.seconds if name != "total")
    ordered = [name for name in _PHASES if name in names]
    ordered += [name for name in names if name not in _PHASES]
    columns = {name: [record.seconds.get(name, 0.0) for record in records] for name in ordered}
    if any("total" in record.seconds for record in records):
        columns["other"] = [
            max(0.0, record.seconds.get("total", 0.0) - sum(column))
            for record, *column in zip(records, *columns.values(), strict=True)
        ]
    # A stack needs all its layers at the same x values, so neighbours are averaged, which keeps
    # the area.
    width = math.ceil(len(records) / panels.points_per_line(len(columns)))
    x = _iterations(records)[::width]
    data = [
        {
            "type": "scatter",
            "mode": "lines",
            "name": name,
            "stackgroup": "seconds",
            "line": {"width": 0.5},
            "x": x,
            "y": [panels.mean(column[i : i + width]) for i in range(0, len(column), width)],
        }
        for name, column in columns.items()
    ]
    return panels.stacked([("seconds", data, {"rangemode": "tozero"})], showlegend=True)


def memory(history: Sequence[HistoryRecord]) -> Figure:
    """Peak memory of each replica, in bytes: of its GPU, or of its process on a CPU."""
    records = _records(history)
    columns: dict[str, dict[int, float]] = {}
    for record in records:
        for figures in record.replicas:
            column = columns.setdefault(f"replica {figures.replica}", {})
            column[record.iteration] = figures.peak_memory_bytes
    if not columns:
        return panels.empty(_NO_HISTORY)
    data = _lines(columns)
    axis = {"rangemode": "tozero", "tickformat": "~s", "ticksuffix": "B"}
    return panels.stacked([("peak memory", data, axis)], showlegend=len(columns) > 1)


def _smoothed(records: Sequence[MetaIteration], count: int) -> list[dict[str, Any]]:
    """The smoothed validation loss and its band, which two meta-iterations do not have yet."""
    found = [
        (record.iteration, level.mean, level.low, level.high)
        for record in records
        if (level := record.smoothed.get("validation_loss")) is not None
        and level.low is not None
        and level.high is not None
    ]
    if not found:
        return []
    iterations, means, lows, highs = (list(column) for column in zip(*found, strict=True))
    x = [float(iteration) for iteration in iterations]
    edge: dict[str, Any] = {"line": {"width": 0}, "showlegend": False, "hoverinfo": "skip"}
    return [
        panels.line(x, lows, "lower end", count + 2, **edge),
        panels.line(x, highs, "upper end", count + 2, **edge, fill="tonexty", fillcolor=_PALER),
        panels.line(x, means, "smoothed", count + 2, line={"color": _DARK, "width": 2.5}),
    ]


def _best(records: Sequence[MetaIteration]) -> MetaIteration | None:
    """The last one that was the best; of records that do not say, the one of the lowest loss."""
    marked = [record for record in records if record.is_best and record.smoothed]
    if marked:
        return marked[-1]
    finite = (record for record in records if math.isfinite(record.validation_loss))
    return min(finite, key=lambda record: record.validation_loss, default=None)


def _level(record: MetaIteration) -> float:
    level = record.smoothed.get("validation_loss")
    return record.validation_loss if level is None else level.mean


def _bands(
    x: list[float], summaries: Sequence[HyperparameterSummary], count: int
) -> list[dict[str, Any]]:
    def line(name: str, **options: Any) -> dict[str, Any]:
        y = [getattr(summary, name.replace(" ", "_")) for summary in summaries]
        return panels.line(x, y, name, count, **options)

    edge = {"width": 0}
    return [
        line("minimum", line=edge),
        line("maximum", line=edge, fill="tonexty", fillcolor=_PALER),
        line("lower quartile", line=edge),
        line("upper quartile", line=edge, fill="tonexty", fillcolor=_PALE),
        line("median", line={"color": _BLUE}),
    ]


def _lines(columns: Mapping[str, Mapping[int, float]]) -> list[dict[str, Any]]:
    """A line per column, which maps meta-iterations to values."""
    return [
        panels.line(list(column), list(column.values()), name, len(columns))
        for name, column in columns.items()
    ]


def _medians(name: str, summary: HyperparameterSummary) -> dict[str, float]:
    return {group.label: group.median for group in summary.groups} or {name: summary.median}


def _records(history: Sequence[HistoryRecord]) -> list[MetaIteration]:
    return [
        record if isinstance(record, MetaIteration) else MetaIteration.model_validate(record)
        for record in history
    ]


def _iterations(records: Iterable[MetaIteration]) -> list[float]:
    return [record.iteration for record in records]
