"""The figure of fidelity probes: each method's hypergradient compared with the exact one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from drmad_client.plots import palette, panels
from drmad_client.plots.panels import Figure

_CHOSEN, _OTHER = palette.LIGHT[0], palette.faded(0, 0.35)


def fidelity(measured: Mapping[str, Any]) -> Figure:
    """Cosine of each probed method's hypergradient to the exact one, and the method's cost.

    `measured` is the answer of GET fidelity: the report on the method that the spec names, or the
    probes of `auto`, of which the last one is drawn. A method that diverged has no bar.
    """
    found, chosen = last_probe(measured)
    if not found:
        failure = (measured.get("report") or {}).get("failure")
        return panels.empty(failure or "no fidelity probe has run yet; exact methods need none")
    bars = {
        "type": "bar",
        "orientation": "h",
        "width": 0.6 if len(found) > 2 else 0.3,
        "y": [f"{'<br>'.join(words)}  " for words in method_labels(f["method"] for f in found)],
        "x": [panels.rounded(figure["cosine"]) for figure in found],
        "text": [
            "diverged" if figure["cosine"] is None else cost_label(figure["cost"])
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


def last_probe(measured: Mapping[str, Any]) -> tuple[list[dict[str, Any]], Any]:
    """The results of the last probe, and the method that was chosen or that the spec names."""
    if choices := measured.get("choices"):
        return choices[-1]["probes"], choices[-1]["method"]
    found = [p["figure"] for p in (measured.get("report") or {}).get("predictions", ())]
    return found, found[0]["method"] if found else None


def method_labels(methods: Iterable[Mapping[str, Any]]) -> list[list[str]]:
    """The label of each method in parts: its name, its horizon, and the settings that differ."""
    all_of_them = list(methods)

    def label(method: Mapping[str, Any]) -> list[str]:
        alike = [other for other in all_of_them if other["method"] == method["method"]]
        settings = [
            setting if value is True else f"{setting} {value}"
            for setting, value in method.items()
            if setting != "method"
            and value not in (None, False)
            and (setting == "horizon" or any(other.get(setting) != value for other in alike))
        ]
        return [str(method["method"]), *settings]

    return [label(method) for method in all_of_them]


def cost_label(cost: float) -> str:
    """The price of one hypergradient, counted in training runs."""
    return f"{cost:.2f}x one training run"
