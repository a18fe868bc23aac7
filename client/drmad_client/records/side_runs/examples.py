"""What the page of a job shows of its training examples."""

from __future__ import annotations

from pydantic import Field

from drmad_client.records.base import Record


class ExampleView(Record):
    """One training example beside its row."""

    text: str | None = Field(
        default=None, description="What the problem's `describe` says of the example."
    )
    picture: str | None = Field(
        default=None, description="The example as a PNG in a data URL, where it is an image."
    )


class ExampleGroups(Record):
    """A class or column of all training examples, each by the number of its label."""

    labels: list[str]
    numbers: list[int] = Field(description="For each row the position in `labels`; -1 for none.")


class ShownExamples(Record):
    """The answer of a worker about training examples."""

    views: dict[int, ExampleView] = Field(description="By row.")
    groups: dict[str, ExampleGroups] = Field(
        default={}, description="class and the columns of the data, where the problem has them."
    )
