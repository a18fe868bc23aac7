"""The base of the data sets."""

from __future__ import annotations

from typing import ClassVar

from drmad_client.spec.base import Spec

UPLOAD = r"^sha256:[0-9a-f]{64}$"
"""The pattern of the name of an upload."""


class DataSet(Spec):
    """Base of the data sets; the sizes are None where only a worker can read them.

    Attributes:
        examples: all examples.
        classes: the classes of the targets.
        input_shape: the shape of one example.
        has_categories: whether inputs are numbers of categories, which `tabular` alone takes.
    """

    examples: ClassVar[int | None] = None
    classes: ClassVar[int | None] = None
    input_shape: ClassVar[tuple[int, ...] | None] = None

    @property
    def parts(self) -> tuple[int, int, int] | None:
        """Training, validation and test examples; None where only a worker knows them."""
        return None

    @property
    def has_categories(self) -> bool:
        return False

    def has_column(self, name: str) -> bool:
        """Whether a hyperparameter may form groups of training examples by this column."""
        return False
