"""Log records as text or JSON, with the ids of the request, the job and the tenant."""

from __future__ import annotations

import logging
import re
from contextvars import ContextVar
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from drmad_service.errors import ServiceStartError

LogFormat = Literal["text", "json"]

request_id: ContextVar[str] = ContextVar("request_id", default="")
job_id: ContextVar[str] = ContextVar("job_id", default="")
tenant: ContextVar[str] = ContextVar("tenant", default="")

_IDS = {"request_id": request_id, "job_id": job_id, "tenant": tenant}
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
_TEXT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


class LogSettings(BaseSettings):
    """Settings of the log, which every command reads from the environment."""

    model_config = SettingsConfigDict(env_prefix="DRMAD_LOG_", env_ignore_empty=True, frozen=True)

    format: LogFormat = Field(
        default="text",
        description="Format of the log on stderr: text, or json for one object a line.",
    )
    level: Annotated[
        Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"], BeforeValidator(str.upper)
    ] = Field(
        default="INFO",
        description="Minimum level of a log record: DEBUG, INFO, WARNING, ERROR or CRITICAL.",
    )


def from_environment() -> LogSettings:
    """
    Raises:
        ServiceStartError: a variable has a value that is not among the allowed ones.
    """
    try:
        return LogSettings()
    except ValidationError as error:
        first = error.errors()[0]
        name = f"{LogSettings.model_config['env_prefix']}{first['loc'][0]}".upper()
        expected = first["ctx"]["expected"]
        raise ServiceStartError(f"{name} must be {expected}, got {first['input']!r}") from error


def configure(settings: LogSettings) -> None:
    """Writes records of this process to stderr."""
    handler = logging.StreamHandler()
    handler.setFormatter(formatter(settings.format))
    handler.addFilter(_with_ids)
    logging.basicConfig(level=settings.level, handlers=[handler])


def formatter(log_format: LogFormat) -> logging.Formatter:
    """Writes one line per record; JSON has the values in `extra` as fields of their own."""
    if log_format == "text":
        return _Text(_TEXT)
    from pythonjsonlogger.core import RESERVED_ATTRS
    from pythonjsonlogger.json import JsonFormatter

    return JsonFormatter(
        "%(asctime)s %(levelname)s %(name)s %(message)s",
        rename_fields={"asctime": "at", "levelname": "level", "name": "logger"},
        reserved_attrs=[*RESERVED_ATTRS, "color_message"],  # uvicorn repeats the message in colour
    )


class _Text(logging.Formatter):
    """One line per record, and indented lines for its traceback.

    Text of users can hold line feeds and escape codes: they are written as \\n and \\x1b, so that
    nobody can forge a record or change the terminal of its reader.
    """

    def format(self, record: logging.LogRecord) -> str:
        ids = [f"{name}={getattr(record, name)}" for name in _IDS if getattr(record, name, "")]
        return super().format(record).replace("\0", f" [{' '.join(ids)}]" if ids else "")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        record.message = _printable(record.message)
        return super().formatMessage(record) + "\0"

    def formatException(self, ei: Any) -> str:  # noqa: N802
        lines = super().formatException(ei).split("\n")
        return "\n".join(f"  {_printable(line)}" for line in lines)


def _printable(text: str) -> str:
    """The text with each control character as Python would write it."""
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def _with_ids(record: logging.LogRecord) -> bool:
    """Adds the ids of the current request, job and tenant, unless the record has its own."""
    for name, current in _IDS.items():
        if not hasattr(record, name) and current.get():
            setattr(record, name, current.get())
    return True
