"""Log records as text or JSON, with the ids of the request, the job and the tenant."""

from __future__ import annotations

import logging
from contextvars import ContextVar
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from drmad_service.errors import ServiceStartError

LogFormat = Literal["text", "json"]

request_id: ContextVar[str] = ContextVar("request_id", default="")
job_id: ContextVar[str] = ContextVar("job_id", default="")
tenant: ContextVar[str] = ContextVar("tenant", default="")

_IDS = {"request_id": request_id, "job_id": job_id, "tenant": tenant}
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
    def format(self, record: logging.LogRecord) -> str:
        ids = [f"{name}={getattr(record, name)}" for name in _IDS if getattr(record, name, "")]
        line, _, rest = super().format(record).partition("\n")
        line += f" [{' '.join(ids)}]" if ids else ""
        return f"{line}\n{rest}" if rest else line


def _with_ids(record: logging.LogRecord) -> bool:
    """Adds the ids of the current request, job and tenant, unless the record has its own."""
    for name, current in _IDS.items():
        if not hasattr(record, name) and current.get():
            setattr(record, name, current.get())
    return True
