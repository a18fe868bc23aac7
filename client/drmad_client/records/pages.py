"""One page of a list."""

from __future__ import annotations

from typing import Generic, TypeVar

from pydantic import Field

from drmad_client.records.base import Record

T = TypeVar("T")


class Page(Record, Generic[T]):
    """One page of a list, and the cursor of the next one."""

    data: list[T]
    has_more: bool
    next: str | None = Field(
        default=None, description="Cursor of the next page; pass it as `after`."
    )
