"""The figures of a job by name, as plotly's JSON: dictionaries that notebook and dashboard share.

Drawing needs no plotly. A template sets the colours of text, paper and grid, so the same figure
suits light and dark pages. Long histories are reduced, so a figure of thousands of meta-iterations
stays under 200 kB.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from drmad_client.plots import panels
from drmad_client.plots.curves import (
    HistoryRecord,
    cosines,
    hypergradient_norms,
    hyperparameters,
    layers,
    losses,
    memory,
    seconds,
    staleness,
)
from drmad_client.plots.fidelity import fidelity
from drmad_client.plots.learned_values import Values, image_shape, movers, penalty_image, schedules
from drmad_client.plots.panels import Figure
from drmad_client.plots.search_figures import importance, parallel_coordinates
from drmad_client.plots.trials import trials
from drmad_client.records.hyperparameters import HyperparameterInfo
from drmad_client.records.job import JobRecord
from drmad_client.records.search import Trial
from drmad_client.spec.capabilities import PENALTIES, SCHEDULES
from drmad_client.spec.outer.transforms import to_user_units

__all__ = [
    "FIGURES",
    "FigureKind",
    "Material",
    "cosines",
    "draw",
    "fidelity",
    "hypergradient_norms",
    "hyperparameters",
    "importance",
    "layers",
    "losses",
    "memory",
    "movers",
    "parallel_coordinates",
    "penalty_image",
    "save",
    "schedules",
    "seconds",
    "staleness",
    "to_plotly",
    "trials",
]


@dataclass(frozen=True)
class Material:
    """The data that the figures of one job are drawn from.

    Attributes:
        history: The meta-iterations of the job, in order.
        hyperparameters: The tuned hyperparameters; empty before a worker has built the problem.
        before, after: Raw hyperparameters of the first and of the best (or last) meta-iteration.
        image: Rows and columns of an input, if it is an image.
        fidelity: The answer of GET fidelity.
        trials: The trials of the job's search, in order.
        rollbacks: The meta-iterations to which the job went back.
        best: The best meta-iteration by the record of the job; None takes that of the history.
        unit: What the history counts: meta-iterations, or the windows of an online job.
    """

    history: Sequence[HistoryRecord]
    hyperparameters: Sequence[HyperparameterInfo] = ()
    before: Mapping[str, Values] = field(default_factory=dict)
    after: Mapping[str, Values] = field(default_factory=dict)
    image: tuple[int, int] | None = None
    fidelity: Mapping[str, Any] = field(default_factory=dict)
    trials: Sequence[Trial] = ()
    rollbacks: Sequence[int] = ()
    best: int | None = None
    unit: str = panels.META_ITERATION

    @classmethod
    def of(
        cls,
        job: JobRecord,
        history: Sequence[HistoryRecord],
        before: Mapping[str, Values] | None = None,
        after: Mapping[str, Values] | None = None,
        fidelity: Mapping[str, Any] | None = None,
        trials: Sequence[Trial] = (),
        rollbacks: Sequence[int] = (),
    ) -> Material:
        image = image_shape(job.spec)
        return cls(
            history,
            job.hyperparameters,
            before or {},
            after or {},
            image,
            fidelity or {},
            trials,
            rollbacks,
            job.best.iteration if job.best else None,
            "window" if job.spec.meta.mode == "online" else panels.META_ITERATION,
        )


@dataclass(frozen=True)
class FigureKind:
    """One figure that can be requested by name."""

    title: str
    draw: Callable[[Material], Figure]
    needs_vectors: bool = False  # it is drawn from `before` and `after`, not from the history
    needs_fidelity: bool = False
    needs_trials: bool = False


def draw(name: str, material: Material, template: str | Mapping[str, Any] | None = None) -> Figure:
    """Draw the figure called `name`.

    Args:
        name: A key of FIGURES.
        material: The data of the job.
        template: A template of plotly, by name or as JSON; by default the viewer chooses one.
    Raises:
        KeyError: FIGURES has no figure of this name.
    """
    kind = FIGURES[name]
    figure = panels.counting(kind.draw(material), material.unit)
    title = kind.title.replace(panels.META_ITERATION, material.unit)
    layout = {"title": {"text": title}, **figure["layout"]}
    if template is not None:
        layout["template"] = template
    return {"data": figure["data"], "layout": layout}


def to_plotly(figure: Figure) -> Any:
    """Convert a figure to a plotly.graph_objects.Figure.

    Raises:
        ImportError: plotly is not installed; `pip install ".[notebook]" in the clone` installs it.
    """
    try:
        from plotly import graph_objects
    except ImportError as error:
        raise ImportError(
            'figures need plotly; install it with: pip install ".[notebook]" in the clone'
        ) from error
    return graph_objects.Figure(figure)


def save(figure: Figure, path: Path) -> None:
    """Write a figure as JSON, or as a self-contained page if the path ends in .html.

    Raises:
        ImportError: A page needs plotly, which is not installed.
    """
    if path.suffix == ".html":
        to_plotly(figure).write_html(path)
    else:
        path.write_text(json.dumps(figure), encoding="utf-8")


def _penalty_image(material: Material) -> Figure:
    l2 = next((h for h in material.hyperparameters if h.kind in PENALTIES), None)
    if l2 is None or l2.name not in material.after:
        return panels.empty("this job tunes no penalty")
    values = material.after[l2.name].ravel()
    first = values[l2.groups[0].start : l2.groups[0].stop] if l2.groups else values
    if material.image is None or first.size % math.prod(material.image):
        return panels.empty("the penalties of this job are not one per pixel of an image")
    return penalty_image(first, material.image)


def _schedules(material: Material) -> Figure:
    infos = [
        info
        for info in material.hyperparameters
        if info.kind in SCHEDULES
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
    "losses": FigureKind("Losses and errors", lambda m: losses(m.history, m.rollbacks, m.best)),
    "hyperparameters": FigureKind(
        "Hyperparameters: median, quartiles and extremes",
        lambda m: hyperparameters(m.history, m.hyperparameters),
    ),
    "layers": FigureKind(
        "Medians by layer or group", lambda m: layers(m.history, m.hyperparameters)
    ),
    "penalty_image": FigureKind("Penalty per pixel", _penalty_image, needs_vectors=True),
    "schedules": FigureKind("Learned schedules", _schedules, needs_vectors=True),
    "hypergradient_norms": FigureKind(
        "Norm of the hypergradient", lambda m: hypergradient_norms(m.history)
    ),
    "cosines": FigureKind("Cosines between hypergradients", lambda m: cosines(m.history)),
    "staleness": FigureKind("Staleness of hypergradients", lambda m: staleness(m.history)),
    "seconds": FigureKind("Time per meta-iteration", lambda m: seconds(m.history)),
    "memory": FigureKind("Peak memory", lambda m: memory(m.history)),
    "fidelity": FigureKind(
        "Fidelity to the exact hypergradient", lambda m: fidelity(m.fidelity), needs_fidelity=True
    ),
    "trials": FigureKind("Trials of the search", lambda m: trials(m.trials), needs_trials=True),
    "search_lines": FigureKind(
        "Trials over the searched scalars",
        lambda m: parallel_coordinates(m.trials),
        needs_trials=True,
    ),
    "importance": FigureKind(
        "Importance of the searched scalars", lambda m: importance(m.trials), needs_trials=True
    ),
    "movers": FigureKind(
        "Largest changes",
        lambda m: movers(m.before, m.after, m.hyperparameters),
        needs_vectors=True,
    ),
}
