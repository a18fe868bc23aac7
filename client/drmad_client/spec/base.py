"""The base of every part of a job's spec, and how a part reports fields that do not fit."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict
from pydantic_core import InitErrorDetails, PydanticCustomError

Misfit = tuple[tuple[int | str, ...], Any, str]
"""Path, value and message of a field that does not fit the rest of the job."""


class Spec(BaseModel):
    """Base of every part of a job: immutable, and a misspelt field is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def misfit_error(path: tuple[int | str, ...], value: Any, message: str) -> InitErrorDetails:
    """The misfit in the form in which pydantic reports it."""
    return InitErrorDetails(
        type=PydanticCustomError("misfit", "{message}", {"message": message}),
        loc=path,
        input=value,
    )
