"""Fills the templates. Every value is escaped; what a user wrote is never HTML."""

from __future__ import annotations

from datetime import UTC, datetime
from importlib import resources
from typing import Any
from urllib.parse import urlsplit

from fastapi import Request, Response
from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from drmad_service.api.compression import compressible
from drmad_service.dashboard import assets

# Plotly sets the `style` attribute of elements that it draws; style sheets and scripts come from us
# alone, and none stands in a page.
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

_environment = Environment(
    loader=PackageLoader("drmad_service.dashboard"),
    autoescape=select_autoescape(default=True),
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


async def page(request: Request, template: str, status_code: int = 200, **values: Any) -> Response:
    """A whole page."""
    html = _environment.get_template(template).render(path=request.url.path, **values)
    response = await compressible(request, html.encode(), "text/html", HEADERS)
    response.status_code = status_code
    return response


def examples() -> dict[str, str]:
    """Jobs to start from, as YAML with comments, by name."""
    folder = resources.files("drmad_service.dashboard") / "examples"
    files = sorted(folder.iterdir(), key=lambda file: file.name)
    return {
        file.name.removesuffix(".yaml").partition("-")[2]: file.read_text(encoding="utf-8")
        for file in files
    }


def _duration(seconds: float | None) -> str:
    """A length of time in its two largest units, as in 2 h 5 min."""
    if seconds is None:
        return ""
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
    """How long ago, in its largest unit; the page's script writes the same way."""
    seconds = max(0, int((datetime.now(UTC) - moment).total_seconds()))
    for unit, name in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= unit:
            return f"{seconds // unit} {name}"
    return f"{seconds} s"


def _figure(value: float | None, digits: int = 4) -> str:
    """A number as people read it; a dash where there is none."""
    if value is None:
        return "–"
    return f"{value:.{digits}g}".replace("e-0", "e-").replace("e+0", "e")


def _metric(value: float | None, name: str) -> str:
    """A figure of a model: errors and accuracies as shares, all else as numbers."""
    if value is not None and name.endswith(("error", "accuracy")):
        return f"{value:.2%}"
    return _figure(value)


def _value(value: Any) -> str:
    """A value of a spec's field."""
    return _figure(value) if isinstance(value, float) or value is None else str(value)


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"


def _problem(spec: Any) -> str:
    """The problem of a job in a few words."""
    problem = spec.problem
    entrypoint = getattr(problem, "entrypoint", None)
    if entrypoint:
        return str(entrypoint)
    return f"{problem.model.name} on {_data(problem.data)}"


def _data(data: Any) -> str:
    """A data set; of the user's own what tells it from others."""
    if path := getattr(data, "path", None):
        return str(path).rpartition("/")[2]
    digest = getattr(data, "data", None)
    return f"upload {digest.removeprefix('sha256:')[:8]}" if digest else str(data.name)


def _tuned(spec: Any) -> str:
    return ", ".join(h.name or h.kind for h in spec.hyperparameters)


_environment.globals |= {
    "asset": assets.url,
    "plotly_styles": assets.plotly_styles,
}
_environment.filters |= {
    "ago": _ago,
    "host": lambda url: urlsplit(url).hostname,  # the rest of an address may hold a token
    "duration": _duration,
    "figure": _figure,
    "metric": _metric,
    "problem": _problem,
    "size": _size,
    "tuned": _tuned,
    "value": _value,
}
