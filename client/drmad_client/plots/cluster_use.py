"""The figure of a cluster: how much of it is reserved, and how many jobs wait, over time."""

from __future__ import annotations

from collections.abc import Sequence

from drmad_client.plots import palette, panels
from drmad_client.plots.panels import Figure
from drmad_client.records.service.cluster import UseSample

MAX_SAMPLES = 1_000


def cluster_use(samples: Sequence[UseSample]) -> Figure:
    """Shares of the CPU cores and GPUs that are reserved, and the numbers of jobs, over time (UTC).

    Of more than 1,000 samples an even choice is drawn.
    """
    if not samples:
        return panels.empty("No samples yet: a scheduler adds one every minute.")
    chosen = [samples[index] for index in panels.evenly(len(samples), MAX_SAMPLES)]
    x = [sample.at.strftime("%Y-%m-%d %H:%M:%S") for sample in chosen]

    def series(name: str, number: int, y: list[float | None], axis: str) -> dict[str, object]:
        mode = "markers" if len(x) == 1 else "lines"
        shape = {"type": "scatter", "mode": mode, "name": name, "x": x, "y": y, "yaxis": axis}
        return shape | palette.stroke(number, shape="hv")

    data = [series("CPU cores", 0, [_share(s.reserved_cpus, s.cpus) for s in chosen], "y")]
    if any(sample.gpus for sample in chosen):
        data.append(series("GPUs", 1, [_share(s.reserved_gpus, s.gpus) for s in chosen], "y"))
    data.append(series("running jobs", 2, [s.running for s in chosen], "y2"))
    data.append(series("queued jobs", 3, [s.queued for s in chosen], "y2"))
    layout = {
        "showlegend": True,
        "hovermode": "x unified",
        "xaxis": {"title": {"text": "time, UTC"}, "anchor": "y2", "type": "date"},
        "yaxis": {
            "title": {"text": "reserved"},
            "domain": [0.56, 1.0],
            "tickformat": ".0%",
            "range": [0, 1.05],
        },
        "yaxis2": {"title": {"text": "jobs"}, "domain": [0.0, 0.44], "rangemode": "tozero"},
    }
    return {"data": data, "layout": layout}


def _share(part: float, whole: float) -> float | None:
    return panels.rounded(part / whole) if whole else None
