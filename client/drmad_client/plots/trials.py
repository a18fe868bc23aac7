"""The figure of a search: the validation loss of each trial."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from drmad_client.plots import palette, panels
from drmad_client.plots.panels import Figure
from drmad_client.records.search import Trial


def trials(search: Sequence[Trial | Mapping[str, Any]]) -> Figure:
    """Validation loss of each trial of the search, from 1, and the lowest loss so far."""
    found = [t if isinstance(t, Trial) else Trial.model_validate(t) for t in search]
    ended = [(t, t.validation_loss) for t in found if t.validation_loss is not None]
    if not ended:
        return panels.empty("no trial has ended with a validation loss yet")
    losses = [loss for _, loss in ended]
    lowest = list(itertools.accumulate(losses, min))
    points = {
        "type": "scatter",
        "mode": "markers",
        "marker": {"color": palette.LIGHT[0]},
        "name": "trial",
        "x": [trial.number + 1 for trial, _ in ended],
        "y": [panels.rounded(loss) for loss in losses],
        "text": [
            "<br>".join(f"{path} = {_text(value)}" for path, value in trial.values.items())
            for trial, _ in ended
        ],
        "hovertemplate": "%{y}<br>%{text}",
    }
    line = panels.line(
        [trial.number + 1 for trial, _ in ended],
        lowest,
        "lowest so far",
        2,
        **palette.stroke(1, shape="hv"),
    )
    return panels.stacked([("validation loss", [points, line], {})], True, x_title="trial")


def _text(value: Any) -> str:
    shown = f"{value:.4g}" if isinstance(value, float) else str(value)
    return panels.plain(shown)
