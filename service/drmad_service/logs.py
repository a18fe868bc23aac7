"""Log records as text or as JSON, with the ids of the request, the job and the tenant."""

from __future__ import annotations

import logging
from contextvars import ContextVar
from typing import Literal

LogFormat = Literal["text", "json"]

request_id: ContextVar[str] = ContextVar("request_id", default="")
job_id: ContextVar[str] = ContextVar("job_id", default="")
tenant: ContextVar[str] = ContextVar("tenant", default="")

_IDS = {"request_id": request_id, "job_id": job_id, "tenant": tenant}
_TEXT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


def configure(log_format: LogFormat, level: str) -> None:
    """Write to stderr what is at least as important as `level`."""
    handler = logging.StreamHandler()
    handler.setFormatter(formatter(log_format))
    handler.addFilter(_with_ids)
    logging.basicConfig(level=level.upper(), handlers=[handler])


def formatter(log_format: LogFormat) -> logging.Formatter:
    """One line a record; JSON has what stands in `extra` as fields of its own."""
    if log_format == "text":
        return _Text(_TEXT)
    from pythonjsonlogger.core import RESERVED_ATTRS
    from pythonjsonlogger.json import JsonFormatter

    return JsonFormatter(
        "%(asctime)s %(levelname)s %(name)s %(message)s",
        rename_fields={"asctime": "at", "levelname": "level", "name": "logger"},
        reserved_attrs=[*RESERVED_ATTRS, "color_message"],  # uvicorn's, for terminals
    )


class _Text(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        ids = [f"{name}={getattr(record, name)}" for name in _IDS if getattr(record, name, "")]
        line, _, rest = super().format(record).partition("\n")
        line += f" [{' '.join(ids)}]" if ids else ""
        return f"{line}\n{rest}" if rest else line


def _with_ids(record: logging.LogRecord) -> bool:
    """What the record does not say of itself, the request or the job that is worked on says."""
    for name, current in _IDS.items():
        if not hasattr(record, name) and current.get():
            setattr(record, name, current.get())
    return True
