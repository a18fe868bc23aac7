"""Figures of a job's course: what each meta-iteration reported, one after the other."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from drmad_client.plots import traces
from drmad_client.plots.traces import Figure, Row
from drmad_client.records.job import HyperparameterInfo, HyperparameterSummary, MetaIteration

HistoryRecord = MetaIteration | Mapping[str, Any]

CELLS_OF_A_MAP = 10_000
_MOST_LINES = 8  # as many as there are colours

_BLUE, _PALE, _PALER = "#3f87c9", "rgba(63, 135, 201, 0.35)", "rgba(63, 135, 201, 0.15)"
_PHASES = ("forward", "evaluate", "backward")


def losses(history: Sequence[HistoryRecord]) -> Figure:
    """Validation, training and test loss over the meta-iterations; below, the errors."""
    records = _records(history)
    if not records:
        return traces.empty("no meta-iteration is committed yet")
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
    data = [traces.line(x, y, name, count, legendgroup=name) for name, y in columns.items()]
    best = min(
        (record for record in records if math.isfinite(record.validation_loss)),
        key=lambda record: record.validation_loss,
        default=None,
    )
    if best is not None:
        data.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": "best",
                "x": [best.iteration],
                "y": [traces.rounded(best.validation_loss)],
                "marker": {"symbol": "star", "size": 11},
            }
        )
    rows: list[Row] = [("loss", data, {})]
    if shares:
        errors = [traces.line(x, y, f"{name} error", count) for name, y in shares.items()]
        rows.append(("error", errors, {"tickformat": ".1%", "rangemode": "tozero"}))
    return traces.stacked(rows, showlegend=True)


def hyperparameters(
    history: Sequence[HistoryRecord], infos: Sequence[HyperparameterInfo] = ()
) -> Figure:
    """Each hyperparameter's median, quartiles and extremes, in the user's own units."""
    records = _records(history)
    names = list(dict.fromkeys(name for record in records for name in record.hyperparameters))
    if not names:
        return traces.empty("no meta-iteration is committed yet")
    logarithmic = {info.name for info in infos if info.transform == "exp"}
    rows: list[Row] = []
    for name in names:
        having = [record for record in records if name in record.hyperparameters]
        x = _iterations(having)
        summaries = [record.hyperparameters[name] for record in having]
        axis = {"type": "log"} if name in logarithmic else {}
        rows.append((name, _bands(x, summaries, 5 * len(names)), axis))
    return traces.stacked(rows, showlegend=False)


def layers(history: Sequence[HistoryRecord], infos: Sequence[HyperparameterInfo] = ()) -> Figure:
    """The median of each layer's hyperparameters, layer by iteration."""
    records = _records(history)
    logarithmic = {info.name for info in infos if info.transform == "exp"}
    cells: dict[str, dict[int, float | None]] = {}
    for column, record in enumerate(records):
        for name, summary in record.hyperparameters.items():
            for label, value in _medians(name, summary).items():
                value = math.log10(value) if name in logarithmic and value > 0.0 else value
                cells.setdefault(label, {})[column] = traces.rounded(value)
    if not cells:
        return traces.empty("no meta-iteration is committed yet")
    kept = traces.evenly(len(records), max(2, CELLS_OF_A_MAP // len(cells)))
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
        "xaxis": {"title": {"text": "meta-iteration"}, **traces.whole_ticks(x)},
        "yaxis": {"autorange": "reversed", "automargin": True, "type": "category"},
    }
    return {"data": [trace], "layout": layout}


def hypergradient_norms(history: Sequence[HistoryRecord]) -> Figure:
    """Euclidean norm of the hypergradient, of all and by group, in raw units; of many groups those
    where it is the largest."""
    records = _records(history)
    if not records:
        return traces.empty("no meta-iteration is committed yet")
    columns: dict[str, dict[int, float]] = {"all": {}}
    for record in records:
        columns["all"][record.iteration] = record.hypergradient_norm
        for name, summary in record.hyperparameters.items():
            norms = {group.label: group.hypergradient_norm for group in summary.groups}
            for label, norm in (norms or {name: summary.hypergradient_norm}).items():
                columns.setdefault(label, {})[record.iteration] = norm
    if len(columns) == 2:
        del columns["all"]  # the same line twice
    largest = sorted(columns, key=lambda label: max(columns[label].values()), reverse=True)
    columns = {label: columns[label] for label in columns if label in largest[:_MOST_LINES]}
    data = [
        traces.line(list(column), list(column.values()), name, len(columns))
        for name, column in columns.items()
    ]
    return traces.stacked([("norm", data, {"type": "log", "exponentformat": "e"})], showlegend=True)


def cosines(history: Sequence[HistoryRecord]) -> Figure:
    """Cosine of each hypergradient to the one before, and of each replica's to their mean."""
    records = _records(history)
    columns: dict[str, dict[int, float]] = {}
    for record in records:
        if record.cosine_to_previous is not None:
            columns.setdefault("to the one before", {})[record.iteration] = (
                record.cosine_to_previous
            )
        for figures in record.replicas if len(record.replicas) > 1 else ():
            name = f"replica {figures.replica} to the mean"
            columns.setdefault(name, {})[record.iteration] = figures.cosine_to_mean
    if not columns:
        return traces.empty("a cosine needs two meta-iterations or two replicas")
    data = [
        traces.line(list(column), list(column.values()), name, len(columns))
        for name, column in columns.items()
    ]
    return traces.stacked([("cosine", data, {"range": [-1.05, 1.05]})], showlegend=True)


def staleness(history: Sequence[HistoryRecord]) -> Figure:
    """Updates that others applied while each arrival of an async job was computed: the mean of each
    meta-iteration, and the largest."""
    records = [record for record in _records(history) if record.replicas]
    if not records:
        return traces.empty("no meta-iteration is committed yet")
    x = _iterations(records)
    arrivals = [[float(arrival.staleness) for arrival in record.replicas] for record in records]
    data = [
        traces.line(x, [max(each) for each in arrivals], "largest", 2),
        traces.line(x, [traces.mean(each) for each in arrivals], "mean", 2),
    ]
    return traces.stacked([("updates", data, {"rangemode": "tozero"})], showlegend=True)


def seconds(history: Sequence[HistoryRecord]) -> Figure:
    """Where the time of each meta-iteration goes; what no phase explains is `other`."""
    records = _records(history)
    if not records:
        return traces.empty("no meta-iteration is committed yet")
    names = dict.fromkeys(name for record in records for name in record.seconds if name != "total")
    ordered = [name for name in _PHASES if name in names]
    ordered += [name for name in names if name not in _PHASES]
    columns = {name: [record.seconds.get(name, 0.0) for record in records] for name in ordered}
    if any("total" in record.seconds for record in records):
        columns["other"] = [
            max(0.0, record.seconds.get("total", 0.0) - sum(column))
            for record, *column in zip(records, *columns.values(), strict=True)
        ]
    # A stack needs every layer at the same places: means of neighbours, which keep the area.
    width = math.ceil(len(records) / traces.points_of_each(len(columns)))
    x = _iterations(records)[::width]
    data = [
        {
            "type": "scatter",
            "mode": "lines",
            "name": name,
            "stackgroup": "seconds",
            "line": {"width": 0.5},
            "x": x,
            "y": [traces.mean(column[i : i + width]) for i in range(0, len(column), width)],
        }
        for name, column in columns.items()
    ]
    return traces.stacked([("seconds", data, {"rangemode": "tozero"})], showlegend=True)


def memory(history: Sequence[HistoryRecord]) -> Figure:
    """Peak memory of each replica: of its device, on a CPU of its process."""
    records = _records(history)
    columns: dict[str, dict[int, float]] = {}
    for record in records:
        for figures in record.replicas:
            column = columns.setdefault(f"replica {figures.replica}", {})
            column[record.iteration] = figures.peak_memory_bytes
    if not columns:
        return traces.empty("no meta-iteration is committed yet")
    data = [
        traces.line(list(column), list(column.values()), name, len(columns))
        for name, column in columns.items()
    ]
    axis = {"rangemode": "tozero", "tickformat": "~s", "ticksuffix": "B"}
    return traces.stacked([("peak memory", data, axis)], showlegend=len(columns) > 1)


def _bands(
    x: list[float], summaries: Sequence[HyperparameterSummary], count: int
) -> list[dict[str, Any]]:
    def line(name: str, **options: Any) -> dict[str, Any]:
        y = [getattr(summary, name.replace(" ", "_")) for summary in summaries]
        return traces.line(x, y, name, count, **options)

    edge = {"width": 0}
    return [
        line("minimum", line=edge),
        line("maximum", line=edge, fill="tonexty", fillcolor=_PALER),
        line("lower quartile", line=edge),
        line("upper quartile", line=edge, fill="tonexty", fillcolor=_PALE),
        line("median", line={"color": _BLUE}),
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
