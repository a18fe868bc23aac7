"""Tokenized data as Hugging Face's libraries state them: rows of dicts, or columns by name."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset

from drmad_workers.errors import ProblemError
from drmad_workers.integrations.tasks import IGNORED
from drmad_workers.problem import described

LABELS = ("labels", "label", "label_ids")
"""The names of the labels, of which the first is that of the model's forward."""


class TokenizedRows(Dataset[dict[str, Any]]):
    """A map-style data set of dicts with the columns that the model takes, and the labels."""

    def __init__(self, data: Any, name: str, taken: Collection[str], has_labels: bool) -> None:
        """
        Args:
            data: a `datasets.Dataset`, a list of dicts, another map-style data set of dicts, or a
                mapping from column names to columns.
            name: that of the data in a ProblemError.
            taken: the columns that the model's forward takes.
            has_labels: whether every row must have labels.
        Raises:
            ProblemError: the rows are no dicts, or lack columns that are needed.
        """
        self._data = data
        self._columns = isinstance(data, Mapping)
        self._rows = len(next(iter(data.values()))) if self._columns else len(data)
        first = self._item(0) if self._rows else {}
        if not isinstance(first, Mapping):
            raise ProblemError(
                f"{name} must have rows that are dicts, or be a dict of columns, got "
                f"{described(first)} as its first row",
                name,
            )
        self._names = {key: "labels" if key in LABELS else key for key in first}
        self._names = {key: to for key, to in self._names.items() if key in LABELS or key in taken}
        missing = set(taken).isdisjoint(set(self._names) - set(LABELS))
        if self._rows and (missing or (has_labels and "labels" not in self._names.values())):
            wanted = "a column that the model takes, such as input_ids" if missing else "labels"
            raise ProblemError(
                f"{name} must have {wanted}, got {', '.join(map(str, first))}: "
                + ("tokenize the texts first" if missing else f"name them {' or '.join(LABELS)}"),
                name,
            )

    def __len__(self) -> int:
        return self._rows

    def __getitem__(self, row: int) -> dict[str, Any]:
        item = self._item(row)
        return {to: item[key] for key, to in self._names.items()}

    def tensors(self) -> dict[str, Tensor] | None:
        """All rows, if the data are a mapping of tensors; None otherwise."""
        if not self._columns:
            return None
        columns = {to: self._data[key] for key, to in self._names.items()}
        return columns if all(isinstance(c, Tensor) for c in columns.values()) else None

    def _item(self, row: int) -> Any:
        if self._columns:
            return {key: column[row] for key, column in self._data.items()}
        return self._data[row]


@dataclass(frozen=True)
class Padding:
    """Joins rows to a minibatch, and pads them on the right to the longest.

    Attributes:
        pad_id: what fills input_ids.
        predicts_itself: whether the labels are the input_ids where the rows have none.
    """

    pad_id: int
    predicts_itself: bool

    def __call__(self, items: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        columns = {key: [torch.as_tensor(item[key]) for item in items] for key in items[0]}
        if "input_ids" in columns:
            masks = [torch.ones_like(ids) for ids in columns["input_ids"]]
            columns.setdefault("attention_mask", masks)
        content = {key: self._joined(key, column) for key, column in columns.items()}
        return self.with_labels(content)

    def with_labels(self, content: dict[str, Tensor]) -> dict[str, Tensor]:
        """The content with labels, if the model predicts its own input."""
        if not self.predicts_itself or "labels" in content:
            return content
        labels, mask = content["input_ids"], content.get("attention_mask")
        return content | {
            "labels": labels if mask is None else labels.masked_fill(mask == 0, IGNORED)
        }

    def _joined(self, key: str, column: Sequence[Tensor]) -> Tensor:
        if column[0].ndim == 0 or len({each.shape for each in column}) == 1:
            return torch.stack(list(column))
        fill = {"input_ids": self.pad_id, "labels": IGNORED}.get(key, 0)
        return pad_sequence(list(column), batch_first=True, padding_value=fill)


def column_of(data: Any, name: str) -> list[Any]:
    """A column of the data, which has a value per row, by name.

    Raises:
        ProblemError: the rows have no such value.
    """
    try:
        if isinstance(data, Mapping) or hasattr(data, "column_names"):
            return list(data[name])
        return [data[row][name] for row in range(len(data))]
    except KeyError as error:
        raise ProblemError(
            f"columns must name columns of train, which has no {name!r}", "columns"
        ) from error
