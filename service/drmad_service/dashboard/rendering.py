"""Renders the templates. Every value is escaped, so no text of a user becomes HTML."""

from __future__ import annotations

import functools
import math
import re
from datetime import UTC, datetime
from importlib import resources
from typing import Any
from urllib.parse import urlsplit

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from jinja2.ext import Extension

from drmad_client.files import code_archive
from drmad_client.records import verdict
from drmad_client.records.job import Best, JobRecord
from drmad_client.records.side_runs.confirmation import ConfirmedFigures
from drmad_client.records.side_runs.retraining import is_share, plus_minus
from drmad_client.records.side_runs.validation import MeanInterval
from drmad_service.dashboard import assets, comparison, job_rows

# Plotly sets the `style` attribute of the elements that it draws. The policy therefore allows style
# attributes, but no inline style sheet, no inline script and nothing from another origin.
POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "style-src-attr 'unsafe-inline'",
        "img-src 'self' data:",
        "font-src 'self'",
        "connect-src 'self'",
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
    )
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}

_ADDRESS = re.compile(r'\b(href|action)="/')


class _Mounted(Extension):
    """Puts the root path before the addresses of links and forms, which begin with a slash."""

    def preprocess(self, source: str, name: str | None, filename: str | None = None) -> str:
        return _ADDRESS.sub(r'\1="{{ root }}/', source)


def render(template: str, path: str, root: str = "", **values: Any) -> str:
    """Returns a whole page as HTML.

    Args:
        path: the address that the page is served at, below `root`.
        root: the path below which the service is offered; empty, or as in /tuning.
    """
    return _environment(root).get_template(template).render(path=path, **values)


@functools.cache
def _environment(root: str) -> Environment:
    environment = Environment(
        loader=PackageLoader("drmad_service.dashboard"),
        extensions=[_Mounted],
        autoescape=select_autoescape(default=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals |= {
        "root": root,
        "asset": lambda name: root + assets.url(name),
        "code_left_out": code_archive.NEVER,
        "plotly_styles": assets.plotly_styles,
    }
    environment.filters |= _FILTERS
    return environment


def examples() -> dict[str, str]:
    """Returns the example jobs by name, as YAML with comments."""
    folder = resources.files("drmad_service.dashboard") / "examples"
    files = sorted(folder.iterdir(), key=lambda file: file.name)
    return {
        file.name.removesuffix(".yaml").partition("-")[2]: file.read_text(encoding="utf-8")
        for file in files
    }


def _duration(seconds: float | None) -> str:
    """Formats a duration in its two largest units, such as 2 h 5 min, and a short one in ms."""
    if seconds is None:
        return ""
    if 0.0 < seconds < 0.0995:
        return f"{1000 * seconds:.0f} ms"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    for unit, name, small, small_name in (
        (86_400, "d", 3600, "h"),
        (3600, "h", 60, "min"),
        (60, "min", 1, "s"),
    ):
        if whole >= unit:
            rest = whole % unit // small
            return (
                f"{whole // unit} {name} {rest} {small_name}" if rest else f"{whole // unit} {name}"
            )
    return f"{whole} s"


def _ago(moment: datetime) -> str:
    """Formats the time since `moment` in its largest unit; elements.js formats it the same way."""
    seconds = max(0, int((datetime.now(UTC) - moment).total_seconds()))
    for unit, name in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= unit:
            return f"{seconds // unit} {name}"
    return f"{seconds} s"


def _figure(value: float | None, digits: int = 4) -> str:
    """Formats a number to `digits` significant digits, and a missing one as a dash."""
    if value is None:
        return "–"
    return f"{value:.{digits}g}".replace("e-0", "e-").replace("e+0", "e")


def _metric(value: float | None, name: str) -> str:
    """Formats errors and accuracies as percentages and any other metric as a number."""
    if value is not None and name.endswith(("error", "accuracy")):
        return f"{100 * value:.2f} %"
    return _figure(value)


def _value(value: Any) -> str:
    """Formats the value of a spec field."""
    return _figure(value) if isinstance(value, float) or value is None else str(value)


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"


def _problem(spec: Any) -> str:
    """Names the problem of a job: its entrypoint, or its model and data set."""
    problem = spec.problem
    entrypoint = getattr(problem, "entrypoint", None)
    if entrypoint:
        return str(entrypoint)
    return f"{problem.model.name} on {_data(problem.data)}"


def _data(data: Any) -> str:
    """Names a data set; a data set of the user by its file name or the start of its digest."""
    if path := getattr(data, "path", None):
        return str(path).rpartition("/")[2]
    digest = getattr(data, "data", None)
    return f"upload {digest.removeprefix('sha256:')[:8]}" if digest else str(data.name)


def _tuned(spec: Any) -> str:
    if spec.kind == "attribution":
        return "attribution"
    return ", ".join(h.name or h.kind for h in spec.hyperparameters)


def _count(job: JobRecord) -> int:
    """The number of hyperparameters; 0 before a worker has built the problem."""
    return sum(math.prod(info.shape) for info in job.hyperparameters)


def _interval(figures: Best | ConfirmedFigures, name: str) -> str:
    """The interval of a figure of a meta-iteration, empty where it is unknown."""
    intervals = figures.intervals if isinstance(figures, Best) else figures.figures
    return verdict.interval(name, intervals.get(name))


def _plus_minus(interval: MeanInterval | None, name: str) -> str:
    return plus_minus(interval, is_share(name))


_FILTERS = {
    "plus_minus": _plus_minus,
    "relative": comparison.relative,
    "confirmation": verdict.confirmation,
    "interval": _interval,
    "ago": _ago,
    "label": verdict.label,
    "host": lambda url: urlsplit(url).hostname,  # the rest of the URL may hold a token
    "count": _count,
    "duration": _duration,
    "figure": _figure,
    "metric": _metric,
    "problem": _problem,
    "size": _size,
    "test_figure": job_rows.test_figure,
    "tuned": _tuned,
    "value": _value,
}
