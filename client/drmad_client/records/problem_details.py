"""An error as the service answers it (RFC 9457)."""

from __future__ import annotations

from pydantic import Field

from drmad_client.records.base import Record


class FieldError(Record):
    """One bad field of a request."""

    path: str = Field(
        description="Path of the field, such as training.steps or hyperparameters[0].kind."
    )
    message: str = Field(description="What was expected, what came, what to do.")


class ProblemDetails(Record):
    """An error, as RFC 9457 states it (application/problem+json)."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    instance: str = ""
    code: str
    errors: list[FieldError] = Field(default=[], description="The bad fields of the request.")
