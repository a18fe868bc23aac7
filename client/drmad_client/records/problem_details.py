"""An error response of the service (RFC 9457)."""

from __future__ import annotations

from pydantic import Field

from drmad_client.records.base import Record


class FieldError(Record):
    """One bad field of a request."""

    path: str = Field(
        description="Path of the field, such as training.steps or hyperparameters[0].kind."
    )
    message: str = Field(
        description="Explanation for people: the expectation, the finding and the remedy."
    )


class ProblemDetails(Record):
    """An error in the format of RFC 9457 (application/problem+json)."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    instance: str = ""
    code: str
    errors: list[FieldError] = Field(default=[], description="Bad fields of the request.")
