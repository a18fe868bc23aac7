"""Weights of the training examples: one for each example, class, source or other group."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from drmad_client.spec import defaults
from drmad_workers.errors import ProblemError
from drmad_workers.hyperparameters.base import (
    BoundHyperparameter,
    BoundTensor,
    Group,
    Setting,
    require_one_of,
)
from drmad_workers.hyperparameters.classes import classes_of
from drmad_workers.problem import Column

Per = Literal["example", "class", "source", "group"]
PullTo = Literal["start", "class"]


@dataclass(frozen=True)
class BoundSampleWeight(BoundHyperparameter):
    """A weight σ(λ_i) of every training example; shape (training examples,).

    Attributes:
        normalised: see SampleWeight.
    """

    normalised: bool = False

    what: ClassVar[str] = "weight of an example"


@dataclass(frozen=True)
class BoundGroupWeight(BoundTensor):
    """A weight σ(λ_g) of all examples of a group; shape (groups,).

    Attributes:
        group_of: the group of every training example, shape (training examples,), int64; -1 gives
            an example no weight at all.
        normalised: see SampleWeight.
    """

    group_of: Tensor
    normalised: bool = False

    what: ClassVar[str] = "weight of a group"


@dataclass(frozen=True)
class SampleWeight:
    """Weights σ(λ) in (0, 1) of the training examples, by example or by group.

    The training loss of a minibatch B is

        Σ_{i in B} u_i n_i ℓ_i / Σ_{i in B} n_i,

    where n_i is the product of the normalised weights of example i, and u_i that of all its other
    weights. Without normalised weights the divisor is |B|. The weights of several hyperparameters
    multiply, such as one for each example and one for each source.

    With the problem's own `inner_loss` the engine weighs nothing: the loss is handed one σ(λ) per
    training row under this name, shape (training examples,), whatever `per` is, and picks those of
    its batch by `batch.index`.

    Attributes:
        per: what has a weight of its own: an example, a class of the integer targets, a source or
            another group of examples.
        column: the name of the problem's column with the source or group of every training row;
            None takes `source` with per="source".
        normalised: whether the loss is divided by the sum of the weights in the minibatch, so that
            the weights are a mixture: their common factor has no effect.
        init: the logit to start from; 0 is a weight of one half.
        lower, upper: bounds of λ.
        pull_to: what MetaConfig.regularization pulls the weights of examples towards: "start", or
            with "class" the mean of the present λ of the example's class, so that a class may move
            freely and its examples differ where the data tell them apart.
    """

    name: str = "sample_weight"
    per: Per = defaults.Kinds.sample_weight_per
    column: str | None = None
    normalised: bool = False
    init: float = defaults.Kinds.sample_weight_logit
    lower: float | None = None
    upper: float | None = None
    pull_to: PullTo = defaults.Kinds.sample_weight_pull_to

    def bind(self, setting: Setting) -> BoundHyperparameter:
        require_one_of(get_args(Per), self.per, self.name)
        require_one_of(get_args(PullTo), self.pull_to, self.name, "pull_to")
        own_loss = setting.problem.inner_loss is not None
        if own_loss and self.normalised:
            raise ProblemError(
                f"{self.name}: normalised divides the engine's own training loss, and this problem "
                "has an inner_loss: leave it out, and divide by the sum of the weights there",
                f"hyperparameters.{self.name}.normalised",
            )
        if self.per == "example":
            examples = setting.train.rows
            initial, groups = self._start(setting, [self.name], examples)
            limits = (self.lower, self.upper, groups)
            pull = None if self.pull_to == "start" else self._classes(setting)
            if own_loss:
                return BoundTensor(self.name, initial, "sigmoid", *limits, pull_groups=pull)
            return BoundSampleWeight(
                self.name, initial, "sigmoid", *limits, self.normalised, pull_groups=pull
            )
        if self.pull_to != "start":
            raise ProblemError(
                f"{self.name}: pull_to class belongs to the weights of examples, got per "
                f"{self.per}: leave it out, or take per example",
                f"hyperparameters.{self.name}.pull_to",
            )
        labels, group_of = self._grouped(setting)
        initial, groups = self._start(setting, labels, 1)
        return BoundGroupWeight(
            self.name, initial, "sigmoid", self.lower, self.upper, groups, group_of, self.normalised
        )

    def _start(
        self, setting: Setting, labels: Sequence[str], each: int
    ) -> tuple[Tensor, list[Group]]:
        """λ before the first meta-iteration, with `each` entries for every label."""
        initial = torch.full((len(labels) * each,), self.init, dtype=setting.dtype)
        return initial, [Group(label, i * each, (i + 1) * each) for i, label in enumerate(labels)]

    def _classes(self, setting: Setting) -> Tensor:
        """The class of every training example, shape (rows,); -1 for one that is ignored."""
        _, targets = classes_of(setting, self.name)
        return targets.clamp_min(-1).cpu()

    def _grouped(self, setting: Setting) -> tuple[list[str], Tensor]:
        """The labels of the groups, and the group of every training example."""
        field = f"hyperparameters.{self.name}.column"
        if self.per == "class":
            if self.column is not None:
                raise ProblemError(
                    f"{self.name}: column must be left out with per class, whose groups are the "
                    f"targets, got {self.column!r}",
                    field,
                )
            class_of = self._classes(setting)
            return [f"class {i}" for i in range(int(class_of.max()) + 1)], class_of
        column = "source" if self.column is None and self.per == "source" else self.column
        columns = setting.problem.columns
        if column is None or column not in columns:
            raise ProblemError(
                f"{self.name}: column must name a column of the problem, one of "
                f"{', '.join(columns) or 'none that it has'}, got {column!r}: give the problem "
                "columns={NAME: one value per training row}",
                field,
            )
        return grouped(columns[column], column, setting.train.rows)


def grouped(column: Column, name: str, rows: int) -> tuple[list[str], Tensor]:
    """The sorted distinct values of a column as labels, and the number of that of every row.

    Raises:
        ProblemError: the column is not one string or one integer for each of the `rows` rows.
    """
    values = column.detach().cpu().numpy() if isinstance(column, Tensor) else np.asarray(column)
    if values.dtype.kind in "OT" and all(isinstance(value, str) for value in values.flat):
        values = values.astype(str)
    if values.shape != (rows,) or values.dtype.kind not in "biuU":
        what = "a missing value or a mixture" if values.dtype.kind == "O" else values.dtype
        raise ProblemError(
            f"column {name!r} must have one string or one integer for each of the {rows} training "
            f"rows, got shape {values.shape} of {what}",
            f"columns.{name}",
        )
    known, numbers = np.unique(values, return_inverse=True)
    return [str(value) for value in known.tolist()], torch.from_numpy(numbers.astype(np.int64))
