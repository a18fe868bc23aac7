"""Labels of a job: name, tags, note, and whether lists leave it out. None changes a number."""

from __future__ import annotations

import unicodedata
from typing import Annotated, Any

from pydantic import AfterValidator, Field, ValidationError, ValidationInfo, model_validator
from pydantic_core import PydanticCustomError

from drmad_client.spec.base import TURNING, Spec, Visible, misfit_error

MOST_TAGS = 32
"""Bounds the tags of a job."""


def _not_blank(name: str, info: ValidationInfo) -> str:
    if not (info.context and info.context.get("accepted")) and not _shows(name):
        raise PydanticCustomError("blank", "must hold a character that can be seen")
    return name


def _shows(text: str) -> bool:
    return any(unicodedata.category(character)[0] in "LNPS" for character in text)


Name = Annotated[str, Visible, Field(min_length=1, max_length=200), AfterValidator(_not_blank)]
TagKey = Annotated[str, Field(min_length=1, max_length=64), Visible]
TagValue = Annotated[str, Field(max_length=256), Visible]


def _text(note: str) -> str:
    """Refuses what would move the cursor of a terminal, except the ends of lines and tabs."""
    for place, character in enumerate(note):
        is_control = unicodedata.category(character) == "Cc" and character not in "\n\t"
        if is_control or character in TURNING:
            message = "must hold no control characters but line ends and tabs, got U+{code}"
            context = {"code": f"{ord(character):04X} at position {place}"}
            raise PydanticCustomError("control_character", message, context)
    return note


Note = Annotated[str, Field(max_length=10_000), AfterValidator(_text)]


class LabelsSpec(Spec):
    """Changes of a job's labels, as a merge patch (RFC 7396): what is left out stays as it is."""

    name: Name | None = Field(default=None, description="New name of the job.")
    note: Note | None = Field(
        default=None, description="Note on the job, in Markdown or plain text; null removes it."
    )
    tags: dict[TagKey, TagValue | None] | None = Field(
        default=None,
        description="Tags to set by key; null as a value removes that tag, and null in place of "
        "the tags removes all.",
    )
    archived: bool | None = Field(
        default=None,
        description="Whether lists of jobs leave the job out; only a job that has ended can be "
        "archived. It is kept as long as others.",
    )

    @model_validator(mode="before")
    @classmethod
    def _nothing_is_removed_that_must_stay(cls, fields: Any) -> Any:
        nulls = [
            misfit_error((field,), None, "cannot be null; leave it out to keep it as it is")
            for field in ("name", "archived")
            if isinstance(fields, dict) and fields.get(field, "") is None
        ]
        if nulls:
            raise ValidationError.from_exception_data(cls.__name__, nulls)
        return fields

    @property
    def changes(self) -> dict[str, Any]:
        """The fields that were given."""
        return self.model_dump(exclude_unset=True)
