"""Figures of a job's history: curves over its meta-iterations, which count from 1."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from drmad_client.plots import palette, panels
from drmad_client.plots.panels import Figure, Panel
from drmad_client.records.hyperparameters import HyperparameterInfo, HyperparameterSummary
from drmad_client.records.meta_iteration import MetaIteration

HistoryRecord = MetaIteration | Mapping[str, Any]

MAX_HEATMAP_CELLS = 10_000
_MAX_LINES = len(palette.LIGHT)
_MAX_PANELS = 12
_SPLITS = ("validation_", "test_", "training_")
_TITLE_LENGTH = 14
"""Characters of a line of a title beside a panel."""
_NO_HISTORY = "no meta-iteration is committed yet"

_PHASES = ("forward", "evaluate", "backward")


def losses(
    history: Sequence[HistoryRecord], rollbacks: Sequence[int] = (), best: int | None = None
) -> Figure:
    """The losses over the meta-iterations, and below them every metric that the job reports.

    Each smoothed figure has its band at 95 %, with the unsmoothed one as a thin line. A metric of
    validation and of test data has one panel; of more than twelve panels a note names the others.
    Marks show the best meta-iteration (`best`, or that of the records), fidelity probes of auto,
    and `rollbacks`, to which the job went back. Where validation examples judge, `fitted` is the
    loss of the others, and `overfitting` the growth of the gap between the two.
    """
    records = _records(history)
    if not records:
        return panels.empty(_NO_HISTORY)
    columns: dict[str, list[str]] = {"loss": ["validation_loss", "training_loss"]}
    for name in dict.fromkeys(name for record in records for name in record.metrics):
        columns.setdefault(_panel_of(name), []).append(name)
    drawn = dict(list(columns.items())[:_MAX_PANELS])
    count = 4 * sum(map(len, drawn.values()))
    star = next((record for record in records if record.iteration == best), _best(records))
    rows: list[Panel] = []
    series = 0
    for title, names in drawn.items():
        traces: list[dict[str, Any]] = []
        for name in names:
            traces += _curve(records, name, series, count)
            series += 1
        if title == "loss" and star is not None:
            traces.append(_star(star))
        if title == "loss":
            probed = [record.iteration for record in records if record.choice is not None]
            traces += _marks(records, probed, "fidelity probe", "diamond-open", 3)
            traces += _marks(records, rollbacks, "rollback", "x", 6)
        axis: dict[str, Any] = {} if (extent := _extent(traces)) is None else {"range": extent}
        if title in ("error", "accuracy"):
            axis["tickformat"] = ".1%"
            if extent is not None and _highest(traces) <= 1.0:
                axis["range"] = [extent[0], min(extent[1], 1.02)]
        rows.append((_wrapped(title), traces, axis))
    figure = panels.stacked(rows, showlegend=True)
    if others := [title for title in columns if title not in drawn]:
        note = f"not drawn, and in the history: {', '.join(others)}"
        panels.add_note(figure, note.replace("_", " "))
    return figure


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
        axis = panels.log_axis(s.minimum for s in summaries) if name in logarithmic else {}
        rows.append((panels.plain(name), _bands(x, summaries, 5 * len(names)), axis))
    return panels.stacked(rows, showlegend=False)


def layers(history: Sequence[HistoryRecord], infos: Sequence[HyperparameterInfo] = ()) -> Figure:
    """Heat maps of the median of each layer's values, one for each hyperparameter.

    Each map has a colour scale of its own, in the user's units.
    """
    records = _records(history)
    logarithmic = {info.name for info in infos if info.transform == "exp"}
    names = dict.fromkeys(name for record in records for name in record.hyperparameters)
    maps: dict[str, dict[str, dict[int, float | None]]] = {}
    for name in names:
        for column, record in enumerate(records):
            summary = record.hyperparameters.get(name)
            for label, value in ({} if summary is None else _medians(name, summary)).items():
                maps.setdefault(name, {}).setdefault(label, {})[column] = value
    if not maps:
        return panels.empty(_NO_HISTORY)
    cells = sum(map(len, maps.values()))
    kept = panels.evenly(len(records), max(2, MAX_HEATMAP_CELLS // cells))
    x = [_number(records[column]) for column in kept]
    return panels.heat_maps(
        {
            name: (list(rows), [[row.get(column) for column in kept] for row in rows.values()])
            for name, rows in maps.items()
        },
        x,
        logarithmic,
    )


def hypergradient_norms(history: Sequence[HistoryRecord]) -> Figure:
    """Euclidean norm of the hypergradient, in raw units: in total, and by hyperparameter and layer.

    If there are many, those with the largest norms are drawn.
    """
    records = _records(history)
    if not records:
        return panels.empty(_NO_HISTORY)
    is_one = len({name for record in records for name in record.hyperparameters}) == 1
    columns: dict[str, dict[int, float]] = {"all": {}}
    for record in records:
        columns["all"][_number(record)] = record.hypergradient_norm
        for name, summary in record.hyperparameters.items():
            norms = {
                group.label if is_one else f"{name}, {group.label}": group.hypergradient_norm
                for group in summary.groups
            }
            for label, norm in (norms or {name: summary.hypergradient_norm}).items():
                columns.setdefault(label, {})[_number(record)] = norm
    if len(columns) == 2:
        del columns["all"]  # it equals the only group
    largest = sorted(columns, key=lambda label: max(columns[label].values()), reverse=True)
    columns = {label: columns[label] for label in columns if label in largest[:_MAX_LINES]}
    axis = panels.log_axis(norm for column in columns.values() for norm in column.values())
    return panels.stacked([("norm, raw units", _lines(columns), axis)], showlegend=True)


def cosines(history: Sequence[HistoryRecord]) -> Figure:
    """Cosine of each hypergradient to the previous one, and of each replica's to their mean."""
    records = _records(history)
    columns: dict[str, dict[int, float]] = {}
    is_many = _replicas(records) > _MAX_LINES - 2
    for record in records:
        if record.cosine_to_previous is not None:
            columns.setdefault("to the previous one", {})[_number(record)] = (
                record.cosine_to_previous
            )
        agreed = {each.replica: each.cosine_to_mean for each in record.replicas}
        if len(record.replicas) < 2:
            continue
        if is_many:
            agreed_of = sorted(agreed.values())
            middle = agreed_of[len(agreed_of) // 2]
            for name, cosine in (
                ("lowest replica to the mean", agreed_of[0]),
                ("median replica to the mean", middle),
            ):
                columns.setdefault(name, {})[_number(record)] = cosine
            continue
        for replica, cosine in agreed.items():
            columns.setdefault(f"replica {replica} to the mean", {})[_number(record)] = cosine
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
        panels.line(x, [max(each) for each in arrivals], "largest", 2, **palette.stroke(0)),
        panels.line(x, [panels.mean(each) for each in arrivals], "mean", 2, **palette.stroke(1)),
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
            "line": {"width": 0.5, "color": palette.LIGHT[number % _MAX_LINES]},
            "fillcolor": palette.faded(number, 0.6),
            "x": x,
            "y": [panels.mean(column[i : i + width]) for i in range(0, len(column), width)],
        }
        for number, (name, column) in enumerate(columns.items())
    ]
    return panels.stacked([("seconds", data, {"rangemode": "tozero"})], showlegend=True)


def memory(history: Sequence[HistoryRecord]) -> Figure:
    """Peak memory of each replica, in bytes: of its GPU, or of its process on a CPU.

    Of more replicas than there are colours, the largest is drawn.
    """
    records = _records(history)
    columns: dict[str, dict[int, float]] = {}
    is_many = _replicas(records) > _MAX_LINES
    for record in records:
        if is_many and record.replicas:
            peak = max(each.peak_memory_bytes for each in record.replicas)
            columns.setdefault("largest of the replicas", {})[_number(record)] = peak
            continue
        for figures in record.replicas:
            column = columns.setdefault(f"replica {figures.replica}", {})
            column[_number(record)] = figures.peak_memory_bytes
    if not columns:
        return panels.empty(_NO_HISTORY)
    data = _lines(columns)
    axis = {"rangemode": "tozero", "tickformat": "~s", "ticksuffix": "B"}
    return panels.stacked([("peak memory", data, axis)], showlegend=len(columns) > 1 or is_many)


def _panel_of(metric: str) -> str:
    """The panel of a metric: losses, errors and accuracies share one each, and so do the data."""
    kind = metric.rpartition("_")[2]
    if kind in ("loss", "error", "accuracy"):
        return kind
    split = next((split for split in _SPLITS if metric.startswith(split)), "")
    return metric.removeprefix(split)


def _curve(
    records: Sequence[MetaIteration], name: str, series: int, count: int
) -> list[dict[str, Any]]:
    """A figure over the meta-iterations; where it was smoothed, thin beside its level and band."""

    def value(record: MetaIteration) -> float | None:
        if name in ("validation_loss", "training_loss"):
            return float(getattr(record, name))
        return record.metrics.get(name)

    label = name.removesuffix("_loss").replace("_", " ")
    # An online job measures its metrics at some windows alone: a gap would hide the line.
    known = {_number(record): figure for record in records if (figure := value(record)) is not None}
    found = [
        (_number(record), level.mean, level.low, level.high)
        for record in records
        if (level := record.smoothed.get(name)) is not None
        and level.low is not None
        and level.high is not None
    ]
    thin: dict[str, Any] = {"width": 1, "dash": "solid"} if found else {}
    measured = panels.line(
        [*known], [*known.values()], label, count, **palette.stroke(series, **thin)
    )
    if not found:
        return [measured]
    # The level takes the place of the measured line in the legend, so that each figure has one.
    measured |= {"opacity": 0.45, "legendgroup": name, "showlegend": False}
    iterations, means, lows, highs = (list(column) for column in zip(*found, strict=True))
    at = [float(iteration) for iteration in iterations]
    edge: dict[str, Any] = {
        "line": {"width": 0},
        "showlegend": False,
        "hoverinfo": "skip",
        "legendgroup": name,
    }
    band = {"fill": "tonexty", "fillcolor": palette.faded(series, 0.16)}
    return [
        measured,
        panels.line(at, lows, f"{label}, lower end", count, **edge),
        panels.line(at, highs, f"{label}, upper end", count, **edge, **band),
        panels.line(
            at,
            means,
            f"{label}, smoothed",
            count,
            legendgroup=name,
            **palette.stroke(series, width=2.5),
        ),
    ]


def _extent(traces: Sequence[Mapping[str, Any]]) -> list[float] | None:
    """The range of an axis on which every line is seen.

    A band is wide where it has few meta-iterations, so a band alone widens the axis by no more
    than the lines need.
    """
    lines, bands = (
        [
            y
            for trace in traces
            if (trace.get("hoverinfo") == "skip") is is_band
            for y in trace["y"]
            if y is not None
        ]
        for is_band in (False, True)
    )
    if not lines:
        return None
    low, high = min(lines), max(lines)
    room = 0.3 * (high - low) or 0.1 * abs(high) or 1.0
    around = 0.05 * (high - low) or room
    inside = [low - around, high + around]
    if bands:
        inside = [
            min(inside[0], max(min(bands), low - room)),
            max(inside[1], min(max(bands), high + room)),
        ]
    if low >= 0.0:  # nothing that is drawn can be negative
        inside[0] = max(inside[0], -0.02 * (high - low))
    return [panels.rounded(end) or 0.0 for end in inside]


def _highest(traces: Sequence[Mapping[str, Any]]) -> float:
    """The highest value of the lines, without their bands."""
    lines = (trace["y"] for trace in traces if trace.get("hoverinfo") != "skip")
    return max((y for line in lines for y in line if y is not None), default=0.0)


def _wrapped(metric: str) -> str:
    """The name of a metric as the title of a low panel."""
    words = metric.replace("_", " ").split(" ")
    lines: list[str] = []
    for word in words:
        if lines and len(lines[-1]) + len(word) < _TITLE_LENGTH:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return "<br>".join(map(panels.plain, lines))


def _marks(
    records: Sequence[MetaIteration], wanted: Sequence[int], name: str, symbol: str, series: int
) -> list[dict[str, Any]]:
    """Marks on the validation loss; a meta-iteration that is not among the records has none."""
    places = set(wanted)
    marked = [record for record in records if record.iteration in places]
    if not marked:
        return []
    trace = {
        "type": "scatter",
        "mode": "markers",
        "name": name,
        "x": _iterations(marked),
        "y": [panels.rounded(_level(record)) for record in marked],
        "marker": {"symbol": symbol, "size": 9, "color": palette.LIGHT[series]},
    }
    return [trace]


def _star(best: MetaIteration) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "markers",
        "name": "best",
        "x": [_number(best)],
        "y": [panels.rounded(_level(best))],
        "marker": {"symbol": "star", "size": 11, "color": palette.LIGHT[2]},
    }


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
        line("maximum", line=edge, fill="tonexty", fillcolor=palette.faded(0, 0.15)),
        line("lower quartile", line=edge),
        line("upper quartile", line=edge, fill="tonexty", fillcolor=palette.faded(0, 0.35)),
        line("median", **palette.stroke(0)),
    ]


def _lines(columns: Mapping[str, Mapping[int, float]]) -> list[dict[str, Any]]:
    """A line per column, which maps meta-iterations to values."""
    return [
        panels.line(
            list(column), list(column.values()), name, len(columns), **palette.stroke(series)
        )
        for series, (name, column) in enumerate(columns.items())
    ]


def _replicas(records: Sequence[MetaIteration]) -> int:
    """The largest number of replicas that answered in one meta-iteration."""
    return max((len({r.replica for r in record.replicas}) for record in records), default=0)


def _medians(name: str, summary: HyperparameterSummary) -> dict[str, float]:
    return {group.label: group.median for group in summary.groups} or {name: summary.median}


def _records(history: Sequence[HistoryRecord]) -> list[MetaIteration]:
    return [
        record if isinstance(record, MetaIteration) else MetaIteration.model_validate(record)
        for record in history
    ]


def _iterations(records: Iterable[MetaIteration]) -> list[float]:
    return [_number(record) for record in records]


def _number(record: MetaIteration) -> int:
    """The number of a meta-iteration as people count: the first has number 1, and index 0."""
    return record.iteration + 1
