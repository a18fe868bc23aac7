"""Figures of what was measured beside the meta-iterations: trials, and methods against exact."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from drmad_client.plots import traces
from drmad_client.plots.traces import Figure
from drmad_client.records.job import Trial

_CHOSEN, _OTHER = "#3f87c9", "rgba(63, 135, 201, 0.35)"


def fidelity(measured: Mapping[str, Any]) -> Figure:
    """Cosine of each measured method's hypergradient to the exact one, and its cost.

    `measured` is what GET fidelity answers: the report of the method that a job insists on, or
    the last look of auto. A method that diverged has no bar.
    """
    found, chosen = last_measured(measured)
    if not found:
        failure = (measured.get("report") or {}).get("failure")
        return traces.empty(failure or "no method is measured yet; exact ones never are")
    bars = {
        "type": "bar",
        "orientation": "h",
        "width": 0.6 if len(found) > 2 else 0.3,
        "y": [f"{'<br>'.join(words)}  " for words in told_apart(f["method"] for f in found)],
        "x": [traces.rounded(figure["cosine"]) for figure in found],
        "text": [
            "diverged" if figure["cosine"] is None else f"costs {figure['cost']:.2f} trainings"
            for figure in found
        ],
        "marker": {"color": [_CHOSEN if f["method"] == chosen else _OTHER for f in found]},
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
        return traces.empty("no trial of the search has given a loss yet")
    losses = [loss for _, loss in ended]
    lowest = list(itertools.accumulate(losses, min))
    points = {
        "type": "scatter",
        "mode": "markers",
        "name": "trial",
        "x": [trial.number for trial, _ in ended],
        "y": [traces.rounded(loss) for loss in losses],
        "text": [
            "<br>".join(f"{path} = {_value(value)}" for path, value in trial.values.items())
            for trial, _ in ended
        ],
        "hovertemplate": "%{y}<br>%{text}<extra>trial %{x}</extra>",
    }
    line = traces.line(
        [trial.number for trial, _ in ended], lowest, "lowest so far", 2, line={"shape": "hv"}
    )
    figure = traces.stacked([("validation loss", [points, line], {})], True, x_title="trial")
    figure["layout"]["hovermode"] = "closest"
    return figure


def last_measured(measured: Mapping[str, Any]) -> tuple[list[dict[str, Any]], Any]:
    """The figures of the methods measured last, and the method that was chosen or insisted on."""
    if choices := measured.get("choices"):
        return choices[-1]["probes"], choices[-1]["method"]
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


def _value(value: Any) -> str:
    shown = f"{value:.4g}" if isinstance(value, float) else str(value)
    return shown.replace("&", "&amp;").replace("<", "&lt;")  # plotly reads a few tags
