"""Figures of a job as plotly's JSON: plain dictionaries that notebook and dashboard share.

Nothing here needs plotly. Colours of text, paper and grid are left to a template, so that the same
figure reads in light and in dark. Long histories are reduced, so that a figure of thousands of
meta-iterations stays under 200 kB.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from drmad_client import plotting
from drmad_client.plotting import Figure, Row
from drmad_client.records import (
    HyperparameterInfo,
    HyperparameterSummary,
    Job,
    MetaIteration,
    Trial,
)
from drmad_client.specs import JobSpec
from drmad_client.transforms import to_user_units

Record = MetaIteration | Mapping[str, Any]
Values = NDArray[np.floating[Any]]

CELLS_OF_A_MAP = 10_000
_MOST_LAYERS = 20
_MOST_LINES = 8  # as many as there are colours

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
        trials: of the job's search, in order.
    """

    history: Sequence[Record]
    hyperparameters: Sequence[HyperparameterInfo] = ()
    before: Mapping[str, Values] = field(default_factory=dict)
    after: Mapping[str, Values] = field(default_factory=dict)
    image: tuple[int, int] | None = None
    fidelity: Mapping[str, Any] = field(default_factory=dict)
    trials: Sequence[Trial] = ()

    @classmethod
    def of(
        cls,
        job: Job,
        history: Sequence[Record],
        before: Mapping[str, Values] | None = None,
        after: Mapping[str, Values] | None = None,
        fidelity: Mapping[str, Any] | None = None,
        trials: Sequence[Trial] = (),
    ) -> Material:
        image = image_shape(job.spec)
        return cls(
            history, job.hyperparameters, before or {}, after or {}, image, fidelity or {}, trials
        )


@dataclass(frozen=True)
class FigureKind:
    """One figure that can be asked for by name."""

    title: str
    draw: Callable[[Material], Figure]
    needs_vectors: bool = False  # draws from `before` and `after`, not from the history
    needs_fidelity: bool = False
    needs_trials: bool = False


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
        return plotting.empty("no meta-iteration is committed yet")
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
    data = [plotting.line(x, y, name, count, legendgroup=name) for name, y in columns.items()]
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
                "y": [plotting.rounded(best.validation_loss)],
                "marker": {"symbol": "star", "size": 11},
            }
        )
    rows: list[Row] = [("loss", data, {})]
    if shares:
        errors = [plotting.line(x, y, f"{name} error", count) for name, y in shares.items()]
        rows.append(("error", errors, {"tickformat": ".1%", "rangemode": "tozero"}))
    return plotting.stacked(rows, showlegend=True)


def hyperparameters(history: Sequence[Record], infos: Sequence[HyperparameterInfo] = ()) -> Figure:
    """Each hyperparameter's median, quartiles and extremes, in the user's own units."""
    records = _records(history)
    names = list(dict.fromkeys(name for record in records for name in record.hyperparameters))
    if not names:
        return plotting.empty("no meta-iteration is committed yet")
    logarithmic = {info.name for info in infos if info.transform == "exp"}
    rows: list[Row] = []
    for name in names:
        having = [record for record in records if name in record.hyperparameters]
        x = _iterations(having)
        summaries = [record.hyperparameters[name] for record in having]
        axis = {"type": "log"} if name in logarithmic else {}
        rows.append((name, _bands(x, summaries, 5 * len(names)), axis))
    return plotting.stacked(rows, showlegend=False)


def layers(history: Sequence[Record], infos: Sequence[HyperparameterInfo] = ()) -> Figure:
    """The median of each layer's hyperparameters, layer by iteration."""
    records = _records(history)
    logarithmic = {info.name for info in infos if info.transform == "exp"}
    cells: dict[str, dict[int, float | None]] = {}
    for column, record in enumerate(records):
        for name, summary in record.hyperparameters.items():
            for label, value in _medians(name, summary).items():
                value = math.log10(value) if name in logarithmic and value > 0.0 else value
                cells.setdefault(label, {})[column] = plotting.rounded(value)
    if not cells:
        return plotting.empty("no meta-iteration is committed yet")
    kept = plotting.evenly(len(records), max(2, CELLS_OF_A_MAP // len(cells)))
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
        "z": [[plotting.rounded(value) for value in row] for row in image.tolist()],
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
        return plotting.empty("no schedule is tuned in this job")
    rows: list[Row] = []
    for name, value in values.items():
        table = np.atleast_2d(value)[:_MOST_LAYERS]
        x = list(range(table.shape[1]))
        count = len(values) * (len(table) + 1)
        labels = (layers or {}).get(name, [])
        lines = [
            plotting.line(x, line, labels[number] if number < len(labels) else name, count)
            for number, line in enumerate(table.tolist())
        ]
        before = (initial or {}).get(name)
        if before is not None and before.shape == value.shape:
            start = np.atleast_2d(before).mean(axis=0).tolist()
            lines.append(
                plotting.line(x, start, "before", count, line={"dash": "dot"}, opacity=0.6)
            )
        rows.append((name, lines, {}))
    return plotting.stacked(rows, showlegend=True, x_title="inner step")


def hypergradient_norms(history: Sequence[Record]) -> Figure:
    """Euclidean norm of the hypergradient, of all and by group, in raw units; of many groups those
    where it is the largest."""
    records = _records(history)
    if not records:
        return plotting.empty("no meta-iteration is committed yet")
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
        plotting.line(list(column), list(column.values()), name, len(columns))
        for name, column in columns.items()
    ]
    return plotting.stacked(
        [("norm", data, {"type": "log", "exponentformat": "power"})], showlegend=True
    )


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
        return plotting.empty("a cosine needs two meta-iterations or two replicas")
    data = [
        plotting.line(list(column), list(column.values()), name, len(columns))
        for name, column in columns.items()
    ]
    return plotting.stacked([("cosine", data, {"range": [-1.05, 1.05]})], showlegend=True)


def staleness(history: Sequence[Record]) -> Figure:
    """Updates that others applied while each arrival of an async job was computed: the mean of each
    meta-iteration, and the largest."""
    records = [record for record in _records(history) if record.replicas]
    if not records:
        return plotting.empty("no meta-iteration is committed yet")
    x = _iterations(records)
    arrivals = [[float(arrival.staleness) for arrival in record.replicas] for record in records]
    data = [
        plotting.line(x, [max(each) for each in arrivals], "largest", 2),
        plotting.line(x, [plotting.mean(each) for each in arrivals], "mean", 2),
    ]
    return plotting.stacked([("updates", data, {"rangemode": "tozero"})], showlegend=True)


def seconds(history: Sequence[Record]) -> Figure:
    """Where the time of each meta-iteration goes; what no phase explains is `other`."""
    records = _records(history)
    if not records:
        return plotting.empty("no meta-iteration is committed yet")
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
    width = math.ceil(len(records) / plotting.points_of_each(len(columns)))
    x = _iterations(records)[::width]
    data = [
        {
            "type": "scatter",
            "mode": "lines",
            "name": name,
            "stackgroup": "seconds",
            "line": {"width": 0.5},
            "x": x,
            "y": [plotting.mean(column[i : i + width]) for i in range(0, len(column), width)],
        }
        for name, column in columns.items()
    ]
    return plotting.stacked([("seconds", data, {"rangemode": "tozero"})], showlegend=True)


def memory(history: Sequence[Record]) -> Figure:
    """Peak memory of each replica: of its device, on a CPU of its process."""
    records = _records(history)
    columns: dict[str, dict[int, float]] = {}
    for record in records:
        for figures in record.replicas:
            column = columns.setdefault(f"replica {figures.replica}", {})
            column[record.iteration] = figures.peak_memory_bytes
    if not columns:
        return plotting.empty("no meta-iteration is committed yet")
    data = [
        plotting.line(list(column), list(column.values()), name, len(columns))
        for name, column in columns.items()
    ]
    axis = {"rangemode": "tozero", "tickformat": "~s", "ticksuffix": "B"}
    return plotting.stacked([("peak memory", data, axis)], showlegend=len(columns) > 1)


def fidelity(measured: Mapping[str, Any]) -> Figure:
    """Cosine of each measured method's hypergradient to the exact one, and its cost.

    `measured` is what GET fidelity answers: the report of the method that a job insists on, or
    the last look of auto. A method that diverged has no bar.
    """
    found, chosen = last_measured(measured)
    if not found:
        failure = (measured.get("report") or {}).get("failure")
        return plotting.empty(failure or "no method was measured: this one is exact")
    bars = {
        "type": "bar",
        "orientation": "h",
        "y": [f"{'<br>'.join(words)}  " for words in told_apart(f["method"] for f in found)],
        "x": [plotting.rounded(figure["cosine"]) for figure in found],
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


def trials(tried: Sequence[Trial | Mapping[str, Any]]) -> Figure:
    """Validation loss of each trial of the search, and the lowest so far."""
    found = [t if isinstance(t, Trial) else Trial.model_validate(t) for t in tried]
    ended = [(t, t.validation_loss) for t in found if t.validation_loss is not None]
    if not ended:
        return plotting.empty("no trial of the search has given a loss yet")
    losses = [loss for _, loss in ended]
    lowest = list(itertools.accumulate(losses, min))
    points = {
        "type": "scatter",
        "mode": "markers",
        "name": "trial",
        "x": [trial.number for trial, _ in ended],
        "y": [plotting.rounded(loss) for loss in losses],
        "text": [
            "<br>".join(f"{path} = {_value(value)}" for path, value in trial.values.items())
            for trial, _ in ended
        ],
        "hovertemplate": "%{y}<br>%{text}<extra>trial %{x}</extra>",
    }
    line = plotting.line(
        [trial.number for trial, _ in ended], lowest, "lowest so far", 2, line={"shape": "hv"}
    )
    figure = plotting.stacked([("validation loss", [points, line], {})], True, x_title="trial")
    figure["layout"]["hovermode"] = "closest"
    return figure


def _value(value: Any) -> str:
    shown = f"{value:.4g}" if isinstance(value, float) else str(value)
    return shown.replace("&", "&amp;").replace("<", "&lt;")  # plotly reads a few tags


def last_measured(measured: Mapping[str, Any]) -> tuple[list[dict[str, Any]], Any]:
    """The figures of the methods measured last, and the method that was chosen or insisted on."""
    if choices := measured.get("choices"):
        return choices[-1]["figures"], choices[-1]["method"]
    found = [p["figure"] for p in (measured.get("report") or {}).get("predictions", ())]
    return found, found[0]["method"] if found else None


def told_apart(methods: Iterable[Mapping[str, Any]]) -> list[list[str]]:
    """The words for each method: its name, its horizon, and what else tells it from its like."""
    all_of_them = list(methods)

    def words(method: Mapping[str, Any]) -> list[str]:
        alike = [other for other in all_of_them if other["method"] == method["method"]]
        said = [
            setting if value is True else f"{setting} {value}"
            for setting, value in method.items()
            if setting != "method"
            and value not in (None, False)
            and (setting == "horizon" or any(other.get(setting) != value for other in alike))
        ]
        return [str(method["method"]), *said]

    return [words(method) for method in all_of_them]


def movers(
    before: Mapping[str, Values],
    after: Mapping[str, Values],
    infos: Sequence[HyperparameterInfo] = (),
    count: int = 15,
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
        return plotting.empty("no hyperparameter has moved yet")
    trace = {
        "type": "bar",
        "orientation": "h",
        "x": [plotting.rounded(change) for change, _ in moves],
        "y": [label for _, label in moves],
        "hovertemplate": "%{y}: %{x}<extra></extra>",
    }
    layout = {
        "xaxis": {"title": {"text": "change of the raw value"}},
        "yaxis": {"autorange": "reversed", "automargin": True, "type": "category", "dtick": 1},
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
        return plotting.empty("no penalty is tuned in this job")
    values = material.after[l2.name].ravel()
    first = values[l2.groups[0].start : l2.groups[0].stop] if l2.groups else values
    if material.image is None or first.size % math.prod(material.image):
        return plotting.empty("the penalties are not one per pixel of an image")
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
    "staleness": FigureKind("Staleness of the arrivals", lambda m: staleness(m.history)),
    "seconds": FigureKind("Where the time goes", lambda m: seconds(m.history)),
    "memory": FigureKind("Peak memory", lambda m: memory(m.history)),
    "fidelity": FigureKind(
        "Fidelity of the hypergradient", lambda m: fidelity(m.fidelity), needs_fidelity=True
    ),
    "trials": FigureKind("Trials of the search", lambda m: trials(m.trials), needs_trials=True),
    "movers": FigureKind(
        "What moved the furthest",
        lambda m: movers(m.before, m.after, m.hyperparameters),
        needs_vectors=True,
    ),
}


def _bands(
    x: list[float], summaries: Sequence[HyperparameterSummary], count: int
) -> list[dict[str, Any]]:
    def line(name: str, **options: Any) -> dict[str, Any]:
        y = [getattr(summary, name.replace(" ", "_")) for summary in summaries]
        return plotting.line(x, y, name, count, **options)

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


def _records(history: Sequence[Record]) -> list[MetaIteration]:
    return [
        record if isinstance(record, MetaIteration) else MetaIteration.model_validate(record)
        for record in history
    ]


def _iterations(records: Iterable[MetaIteration]) -> list[float]:
    return [record.iteration for record in records]
