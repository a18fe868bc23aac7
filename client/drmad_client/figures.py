"""Figures of a job as plotly's JSON: plain dictionaries that notebook and dashboard share.

Nothing here needs plotly. Colours of text, paper and grid are left to a template, so that the same
figure reads in light and in dark. Long histories are reduced, so that a figure of thousands of
meta-iterations stays under 200 kB.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from drmad_client.records import HyperparameterInfo, HyperparameterSummary, Job, MetaIteration
from drmad_client.specs import JobSpec
from drmad_client.transforms import to_user_units

Figure = dict[str, Any]
"""{"data": [traces], "layout": {...}}"""
Record = MetaIteration | Mapping[str, Any]
Values = NDArray[np.floating[Any]]

_Row = tuple[str, list[dict[str, Any]], dict[str, Any]]

POINTS_OF_A_TRACE = 1_000
POINTS_OF_A_FIGURE = 8_000
CELLS_OF_A_MAP = 10_000
_DIGITS = 5
_MOST_LAYERS = 20

_BLUE, _PALE, _PALER = "#3f87c9", "rgba(63, 135, 201, 0.35)", "rgba(63, 135, 201, 0.15)"
_PHASES = ("forward", "evaluate", "backward")


@dataclass(frozen=True)
class Material:
    """What the figures of one job are drawn from.

    Attributes:
        history: its meta-iterations, in order.
        hyperparameters: what is tuned; empty before a worker has built the problem.
        before, after: raw hyperparameters of the first and of the best (or last) meta-iteration.
        image: rows and columns of an input, where it is an image.
        fidelity: what GET fidelity answers.
    """

    history: Sequence[Record]
    hyperparameters: Sequence[HyperparameterInfo] = ()
    before: Mapping[str, Values] = field(default_factory=dict)
    after: Mapping[str, Values] = field(default_factory=dict)
    image: tuple[int, int] | None = None
    fidelity: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        job: Job,
        history: Sequence[Record],
        before: Mapping[str, Values] | None = None,
        after: Mapping[str, Values] | None = None,
        fidelity: Mapping[str, Any] | None = None,
    ) -> Material:
        image = image_shape(job.spec)
        return cls(history, job.hyperparameters, before or {}, after or {}, image, fidelity or {})


@dataclass(frozen=True)
class FigureKind:
    """One figure that can be asked for by name."""

    title: str
    draw: Callable[[Material], Figure]
    needs_vectors: bool = False  # draws from `before` and `after`, not from the history
    needs_fidelity: bool = False


def draw(name: str, material: Material, template: str | Mapping[str, Any] | None = None) -> Figure:
    """The figure of that name. `template`: of plotly, by name or as JSON; else left to the viewer.

    Raises:
        KeyError: there is no figure of that name; FIGURES has them all.
    """
    kind = FIGURES[name]
    figure = kind.draw(material)
    layout = {"title": {"text": kind.title}, **figure["layout"]}
    if template is not None:
        layout["template"] = template
    return {"data": figure["data"], "layout": layout}


def to_plotly(figure: Figure) -> Any:
    """The figure as a plotly.graph_objects.Figure.

    Raises:
        ImportError: plotly is not installed; `pip install "drmad[notebook]"` brings it.
    """
    try:
        from plotly import graph_objects
    except ImportError as error:
        raise ImportError('figures are shown by plotly: pip install "drmad[notebook]"') from error
    return graph_objects.Figure(figure)


def save(figure: Figure, path: Path) -> None:
    """Write the figure: .html is a page that stands alone (plotly must be installed), else JSON."""
    if path.suffix == ".html":
        to_plotly(figure).write_html(path)
    else:
        path.write_text(json.dumps(figure), encoding="utf-8")


def losses(history: Sequence[Record]) -> Figure:
    """Validation, training and test loss over the meta-iterations; below, the errors."""
    records = _records(history)
    if not records:
        return _empty("no meta-iteration is committed yet")
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
    data = [_line(x, y, name, count, legendgroup=name) for name, y in columns.items()]
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
                "y": [_rounded(best.validation_loss)],
                "marker": {"symbol": "star", "size": 11},
            }
        )
    rows: list[_Row] = [("loss", data, {})]
    if shares:
        errors = [_line(x, y, f"{name} error", count) for name, y in shares.items()]
        rows.append(("error", errors, {"tickformat": ".1%", "rangemode": "tozero"}))
    return _rows(rows, showlegend=True)


def hyperparameters(history: Sequence[Record], infos: Sequence[HyperparameterInfo] = ()) -> Figure:
    """Each hyperparameter's median, quartiles and extremes, in the user's own units."""
    records = _records(history)
    names = list(dict.fromkeys(name for record in records for name in record.hyperparameters))
    if not names:
        return _empty("no meta-iteration is committed yet")
    logarithmic = {info.name for info in infos if info.transform == "exp"}
    rows: list[_Row] = []
    for name in names:
        having = [record for record in records if name in record.hyperparameters]
        x = _iterations(having)
        summaries = [record.hyperparameters[name] for record in having]
        axis = {"type": "log"} if name in logarithmic else {}
        rows.append((name, _bands(x, summaries, 5 * len(names)), axis))
    return _rows(rows, showlegend=False)


def layers(history: Sequence[Record], infos: Sequence[HyperparameterInfo] = ()) -> Figure:
    """The median of each layer's hyperparameters, layer by iteration."""
    records = _records(history)
    logarithmic = {info.name for info in infos if info.transform == "exp"}
    cells: dict[str, dict[int, float | None]] = {}
    for column, record in enumerate(records):
        for name, summary in record.hyperparameters.items():
            for label, value in _medians(name, summary).items():
                value = math.log10(value) if name in logarithmic and value > 0.0 else value
                cells.setdefault(label, {})[column] = _rounded(value)
    if not cells:
        return _empty("no meta-iteration is committed yet")
    kept = _evenly(len(records), max(2, CELLS_OF_A_MAP // len(cells)))
    unit = "log₁₀ of the median" if logarithmic else "median"
    trace = {
        "type": "heatmap",
        "x": [records[column].iteration for column in kept],
        "y": list(cells),
        "z": [[row.get(column) for column in kept] for row in cells.values()],
        "colorscale": "Viridis",
        "colorbar": {"title": {"text": unit}},
        "hovertemplate": "meta-iteration %{x}<br>%{y}<br>%{z}<extra></extra>",
    }
    layout = {
        "xaxis": {"title": {"text": "meta-iteration"}},
        "yaxis": {"autorange": "reversed", "automargin": True, "type": "category"},
    }
    return {"data": [trace], "layout": layout}


def penalty_image(raw: Values, shape: tuple[int, int]) -> Figure:
    """Log penalties of the inputs' weights as an image; several outputs are averaged.

    Args:
        raw: Log penalties of the first layer, one per pixel, or (outputs, pixels) flattened.
        shape: Rows and columns of the image.
    Raises:
        ValueError: `raw` is not a whole number of images.
    """
    pixels = shape[0] * shape[1]
    if raw.size == 0 or raw.size % pixels:
        raise ValueError(f"raw must hold whole images of {pixels} pixels, got {raw.size} values")
    image = raw.reshape(-1, *shape).mean(axis=0)
    trace = {
        "type": "heatmap",
        "z": [[_rounded(value) for value in row] for row in image.tolist()],
        "colorscale": "Viridis",
        "colorbar": {"title": {"text": "log penalty"}},
        "hovertemplate": "row %{y}, column %{x}<br>%{z}<extra></extra>",
    }
    layout = {
        "xaxis": {"visible": False, "constrain": "domain"},
        "yaxis": {"visible": False, "autorange": "reversed", "scaleanchor": "x"},
    }
    return {"data": [trace], "layout": layout}


def schedules(
    values: Mapping[str, Values],
    initial: Mapping[str, Values] | None = None,
    layers: Mapping[str, Sequence[str]] | None = None,
) -> Figure:
    """Learned schedules by inner step, in the user's own units.

    Args:
        values: By name, of shape (steps,) or (layers, steps); of many layers the first are drawn.
        initial: What they started from, drawn dotted.
        layers: Names of the layers.
    """
    if not values:
        return _empty("no schedule is tuned in this job")
    rows: list[_Row] = []
    for name, value in values.items():
        table = np.atleast_2d(value)[:_MOST_LAYERS]
        x = list(range(table.shape[1]))
        count = len(values) * (len(table) + 1)
        labels = (layers or {}).get(name, [])
        lines = [
            _line(x, line, labels[number] if number < len(labels) else name, count)
            for number, line in enumerate(table.tolist())
        ]
        before = (initial or {}).get(name)
        if before is not None and before.shape == value.shape:
            start = np.atleast_2d(before).mean(axis=0).tolist()
            lines.append(_line(x, start, "before", count, line={"dash": "dot"}, opacity=0.6))
        rows.append((name, lines, {}))
    return _rows(rows, showlegend=True, x_title="inner step")


def hypergradient_norms(history: Sequence[Record]) -> Figure:
    """Euclidean norm of the hypergradient, of all and by group, in raw units."""
    records = _records(history)
    if not records:
        return _empty("no meta-iteration is committed yet")
    columns: dict[str, dict[int, float]] = {"all": {}}
    for record in records:
        columns["all"][record.iteration] = record.hypergradient_norm
        for name, summary in record.hyperparameters.items():
            norms = {group.label: group.hypergradient_norm for group in summary.groups}
            for label, norm in (norms or {name: summary.hypergradient_norm}).items():
                columns.setdefault(label, {})[record.iteration] = norm
    if len(columns) == 2:
        del columns["all"]  # the same line twice
    data = [
        _line(list(column), list(column.values()), name, len(columns))
        for name, column in columns.items()
    ]
    return _rows([("norm", data, {"type": "log", "exponentformat": "power"})], showlegend=True)


def cosines(history: Sequence[Record]) -> Figure:
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
        return _empty("a cosine needs two meta-iterations or two replicas")
    data = [
        _line(list(column), list(column.values()), name, len(columns))
        for name, column in columns.items()
    ]
    return _rows([("cosine", data, {"range": [-1.05, 1.05]})], showlegend=True)


def seconds(history: Sequence[Record]) -> Figure:
    """Where the time of each meta-iteration goes; what no phase explains is `other`."""
    records = _records(history)
    if not records:
        return _empty("no meta-iteration is committed yet")
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
    width = math.ceil(len(records) / _limit(len(columns)))
    x = _iterations(records)[::width]
    data = [
        {
            "type": "scatter",
            "mode": "lines",
            "name": name,
            "stackgroup": "seconds",
            "line": {"width": 0.5},
            "x": x,
            "y": [_mean(column[i : i + width]) for i in range(0, len(column), width)],
        }
        for name, column in columns.items()
    ]
    return _rows([("seconds", data, {"rangemode": "tozero"})], showlegend=True)


def memory(history: Sequence[Record]) -> Figure:
    """Peak memory of each replica: of its device, on a CPU of its process."""
    records = _records(history)
    columns: dict[str, dict[int, float]] = {}
    for record in records:
        for figures in record.replicas:
            column = columns.setdefault(f"replica {figures.replica}", {})
            column[record.iteration] = figures.peak_memory_bytes
    if not columns:
        return _empty("no meta-iteration is committed yet")
    data = [
        _line(list(column), list(column.values()), name, len(columns))
        for name, column in columns.items()
    ]
    axis = {"rangemode": "tozero", "tickformat": ".3s", "ticksuffix": "B"}
    return _rows([("peak memory", data, axis)], showlegend=len(columns) > 1)


def fidelity(measured: Mapping[str, Any]) -> Figure:
    """Cosine of each measured method's hypergradient to the exact one, and its cost.

    `measured` is what GET fidelity answers: the report of the method that a job insists on, or
    the last look of auto. A method that diverged has no bar.
    """
    choices, report = measured.get("choices") or (), measured.get("report") or {}
    found = [p["figure"] for p in report.get("predictions", ())]
    chosen: Any = found[0]["method"] if found else None
    if choices:
        found, chosen = choices[-1]["figures"], choices[-1]["method"]
    if not found:
        return _empty(report.get("failure") or "no method was measured: this one is exact")
    bars = {
        "type": "bar",
        "orientation": "h",
        "y": [f"{_setting(figure['method'])}  " for figure in found],
        "x": [_rounded(figure["cosine"]) for figure in found],
        "text": [
            "diverged" if figure["cosine"] is None else f"costs {figure['cost']:.2f} trainings"
            for figure in found
        ],
        "marker": {"color": [_BLUE if f["method"] == chosen else _PALE for f in found]},
        "hoverinfo": "text+x",
    }
    layout = {
        "showlegend": False,
        "xaxis": {"title": {"text": "cosine to the exact hypergradient"}, "range": [-1, 1.05]},
        "yaxis": {"automargin": True, "autorange": "reversed"},
    }
    return {"data": [bars], "layout": layout}


def _setting(method: Mapping[str, Any]) -> str:
    """A method with those of its settings that say something."""
    said = [
        name if value is True else f"{name} {value}"
        for name, value in method.items()
        if name not in ("method", "hvp") and value not in (None, False)
    ]
    return ", ".join([str(method["method"]), *said])


def movers(
    before: Mapping[str, Values],
    after: Mapping[str, Values],
    infos: Sequence[HyperparameterInfo] = (),
    count: int = 25,
) -> Figure:
    """The hyperparameters that moved the furthest, in raw units."""
    moves: list[tuple[float, str]] = []
    groups = {info.name: info.groups for info in infos}
    for name, start in before.items():
        change = (after[name] - start).ravel() if name in after else np.zeros(0)
        size = np.nan_to_num(np.abs(change))
        most = np.argsort(-size, kind="stable")[:count]
        for index in most[size[most] > 0.0].tolist():
            label = next(
                (f"{g.label}[{index - g.start}]" for g in groups.get(name, ()) if index < g.stop),
                f"{name}[{index}]",
            )
            moves.append((float(change[index]), label))
    moves = sorted(moves, key=lambda move: -abs(move[0]))[:count]
    if not moves:
        return _empty("no hyperparameter has moved yet")
    trace = {
        "type": "bar",
        "orientation": "h",
        "x": [_rounded(change) for change, _ in moves],
        "y": [label for _, label in moves],
        "hovertemplate": "%{y}: %{x}<extra></extra>",
    }
    layout = {
        "xaxis": {"title": {"text": "change of the raw value"}},
        "yaxis": {"autorange": "reversed", "automargin": True, "type": "category"},
        "showlegend": False,
    }
    return {"data": [trace], "layout": layout}


def image_shape(spec: JobSpec) -> tuple[int, int] | None:
    """Rows and columns of an input of the job's data set, where it is a square image."""
    inputs = getattr(getattr(spec.problem, "data", None), "input_shape", None) or ()
    side = math.isqrt(math.prod(inputs))
    return (side, side) if side > 1 and inputs == (side * side,) else None


def _penalty_image(material: Material) -> Figure:
    l2 = next((h for h in material.hyperparameters if h.kind in ("l2", "l1")), None)
    if l2 is None or l2.name not in material.after:
        return _empty("no penalty is tuned in this job")
    values = material.after[l2.name].ravel()
    first = values[l2.groups[0].start : l2.groups[0].stop] if l2.groups else values
    if material.image is None or first.size % math.prod(material.image):
        return _empty("the penalties are not one per pixel of an image")
    return penalty_image(first, material.image)


def _schedules(material: Material) -> Figure:
    infos = [
        info
        for info in material.hyperparameters
        if info.kind in ("learning_rate", "momentum")
        and info.name in material.after
        and any(group.stop - group.start > 1 for group in info.groups)  # else one per layer
    ]
    before, after = (
        {i.name: to_user_units(side[i.name], i.transform) for i in infos if i.name in side}
        for side in (material.before, material.after)
    )
    by_layer = {i.name: [g.label for g in i.groups] for i in infos if len(i.shape) > 1}
    return schedules(after, before, by_layer)


FIGURES: dict[str, FigureKind] = {
    "losses": FigureKind("Losses and errors", lambda m: losses(m.history)),
    "hyperparameters": FigureKind(
        "Hyperparameters", lambda m: hyperparameters(m.history, m.hyperparameters)
    ),
    "layers": FigureKind(
        "Hyperparameters by layer", lambda m: layers(m.history, m.hyperparameters)
    ),
    "penalty_image": FigureKind("Penalty of each pixel", _penalty_image, needs_vectors=True),
    "schedules": FigureKind("Learned schedules", _schedules, needs_vectors=True),
    "hypergradient_norms": FigureKind(
        "Norm of the hypergradient", lambda m: hypergradient_norms(m.history)
    ),
    "cosines": FigureKind("Agreement of hypergradients", lambda m: cosines(m.history)),
    "seconds": FigureKind("Where the time goes", lambda m: seconds(m.history)),
    "memory": FigureKind("Peak memory", lambda m: memory(m.history)),
    "fidelity": FigureKind(
        "Fidelity of the hypergradient", lambda m: fidelity(m.fidelity), needs_fidelity=True
    ),
    "movers": FigureKind(
        "What moved the furthest",
        lambda m: movers(m.before, m.after, m.hyperparameters),
        needs_vectors=True,
    ),
}


def reduced(
    x: Sequence[float], y: Sequence[float | None], limit: int = POINTS_OF_A_TRACE
) -> tuple[list[float], list[float | None]]:
    """At most `limit` points (at least 4) of a line, in order: its ends, and of each stretch
    between them the lowest and the highest point, so that no peak is lost."""
    if len(x) <= limit:
        return list(x), list(y)
    values = np.array([math.nan if value is None else value for value in y], dtype=float)
    kept = {0, len(x) - 1}
    for stretch in np.array_split(np.arange(1, len(x) - 1), (limit - 2) // 2):
        part = values[stretch]
        if not np.isnan(part).all():
            kept |= {int(stretch[np.nanargmin(part)]), int(stretch[np.nanargmax(part)])}
    order = sorted(kept)
    return [x[i] for i in order], [y[i] for i in order]


def _bands(
    x: list[float], summaries: Sequence[HyperparameterSummary], count: int
) -> list[dict[str, Any]]:
    def line(name: str, **options: Any) -> dict[str, Any]:
        y = [getattr(summary, name.replace(" ", "_")) for summary in summaries]
        return _line(x, y, name, count, **options)

    edge = {"width": 0}
    return [
        line("minimum", line=edge),
        line("maximum", line=edge, fill="tonexty", fillcolor=_PALER),
        line("lower quartile", line=edge),
        line("upper quartile", line=edge, fill="tonexty", fillcolor=_PALE),
        line("median", line={"color": _BLUE}),
    ]


def _line(
    x: Sequence[float], y: Sequence[float | None], name: str, count: int, **options: Any
) -> dict[str, Any]:
    """One of `count` lines of a figure."""
    xs, ys = reduced(x, y, _limit(count))
    trace: dict[str, Any] = {"type": "scatter", "mode": "lines", "name": name}
    if len(xs) == 1:
        trace["mode"] = "markers"  # a line needs two points to be seen
    return trace | {"x": xs, "y": [_rounded(value) for value in ys]} | options


def _rows(
    rows: Sequence[_Row],
    showlegend: bool,
    x_title: str = "meta-iteration",
) -> Figure:
    """Plots one below the other: title of the y axis, traces, and the axis' own settings."""
    data: list[dict[str, Any]] = []
    layout: dict[str, Any] = {"showlegend": showlegend, "hovermode": "x unified"}
    height = 1.0 / len(rows)
    gap = 0.12 * height if len(rows) > 1 else 0.0
    for number, (title, traces, axis) in enumerate(rows, 1):
        suffix = "" if number == 1 else str(number)
        top = 1.0 - (number - 1) * height
        layout[f"yaxis{suffix}"] = {
            "title": {"text": title},
            "domain": [max(0.0, top - height + gap), top],
            **axis,
        }
        data += [trace | {"xaxis": "x", "yaxis": f"y{suffix}"} for trace in traces]
    last = "" if len(rows) == 1 else str(len(rows))
    layout["xaxis"] = {"title": {"text": x_title}, "anchor": f"y{last}"}
    if len(rows) > 2:
        layout["height"] = 180 * len(rows) + 120
    return {"data": data, "layout": layout}


def _empty(why: str) -> Figure:
    note = {"text": why, "showarrow": False, "xref": "paper", "yref": "paper", "x": 0.5, "y": 0.5}
    axis = {"visible": False}
    return {"data": [], "layout": {"annotations": [note], "xaxis": axis, "yaxis": axis}}


def _medians(name: str, summary: HyperparameterSummary) -> dict[str, float]:
    return {group.label: group.median for group in summary.groups} or {name: summary.median}


def _records(history: Sequence[Record]) -> list[MetaIteration]:
    return [
        record if isinstance(record, MetaIteration) else MetaIteration.model_validate(record)
        for record in history
    ]


def _iterations(records: Iterable[MetaIteration]) -> list[float]:
    return [record.iteration for record in records]


def _limit(count: int) -> int:
    return max(20, min(POINTS_OF_A_TRACE, POINTS_OF_A_FIGURE // max(1, count)))


def _evenly(length: int, limit: int) -> list[int]:
    """At most `limit` places of a sequence, its ends among them."""
    if length <= limit:
        return list(range(length))
    return sorted({round(place * (length - 1) / (limit - 1)) for place in range(limit)})


def _mean(values: Sequence[float]) -> float | None:
    return _rounded(math.fsum(values) / len(values))


def _rounded(value: float | None) -> float | None:
    """Few digits, for a figure shows no more; None where JSON has no number."""
    if value is None or not math.isfinite(value):
        return None
    return float(f"{value:.{_DIGITS}g}")
