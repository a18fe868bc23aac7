"""The base of every part of a job's spec, and how a part reports fields that do not fit."""

from __future__ import annotations

import unicodedata
from typing import Any

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationInfo
from pydantic_core import InitErrorDetails, PydanticCustomError

_INVISIBLE = ("Cc", "Zl", "Zp")
TURNING = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
"""Characters that turn the direction of the text around them."""


def _visible(text: str, info: ValidationInfo) -> str:
    """Refuses what would move the cursor of a terminal, or turn the text around it."""
    if info.context and info.context.get("accepted"):
        return text  # a job of an earlier release stays readable
    for place, character in enumerate(text):
        category = unicodedata.category(character)
        if category == "Cs":
            message = "must hold no half of a surrogate pair, got U+{code} at position {place}"
            context = {"code": f"{ord(character):04X}", "place": place}
            raise PydanticCustomError("surrogate", message, context)
        if category in _INVISIBLE or character in TURNING:
            message = "must hold no control characters, got U+{code} at position {place}"
            context = {"code": f"{ord(character):04X}", "place": place}
            raise PydanticCustomError("control_character", message, context)
    return text


Visible = AfterValidator(_visible)
"""The rule of names and tags, which terminals and pages show."""

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
