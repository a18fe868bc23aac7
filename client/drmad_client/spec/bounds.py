"""Bounds of the numbers that the spec of a job and the engine both check. Needs no pydantic."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from annotated_types import Ge, GroupedMetadata, Gt, Le, Len, Lt


@dataclass(frozen=True, kw_only=True)
class Bounds(GroupedMetadata):
    """The finite numbers that a setting takes; pydantic reads it in an annotation.

    Attributes:
        ge, gt, le, lt: its bounds, as pydantic names them.
        limit: the largest number that a job may ask of the service; the engine takes larger ones.
    """

    ge: float | None = None
    gt: float | None = None
    le: float | None = None
    lt: float | None = None
    limit: float | None = None

    def __iter__(self) -> Iterator[object]:
        """The constraints on the field of a job."""
        most = self.le if self.limit is None else self.limit
        for constraint, bound in ((Ge, self.ge), (Gt, self.gt), (Le, most), (Lt, self.lt)):
            if bound is not None:
                yield constraint(bound)

    def hold(self, number: Any) -> bool:
        """Whether the engine takes the number."""
        return (
            -float("inf") < number < float("inf")
            and (self.ge is None or number >= self.ge)
            and (self.gt is None or number > self.gt)
            and (self.le is None or number <= self.le)
            and (self.lt is None or number < self.lt)
        )

    def __str__(self) -> str:
        """What the number must be, as in "steps must be at least 1"."""
        if self.gt == 0 and self.le is None and self.lt is None:
            return "a positive number"
        words = (
            ("at least", self.ge),
            ("above", self.gt),
            ("at most", self.le),
            ("below", self.lt),
        )
        return " and ".join(f"{word} {bound:g}" for word, bound in words if bound is not None)


BETA = Bounds(ge=0.0, lt=1.0)
CHECKPOINT_EVERY = Bounds(ge=1, limit=100_000)
DROPOUT = Bounds(ge=0.0, lt=1.0)
EMBEDDING_DIM = Bounds(ge=1, limit=4096)
LOSS_TERMS = Bounds(ge=1, limit=10_000)
OPENML_VERSION = Bounds(ge=1, limit=1000)
SEED = Bounds(ge=0, limit=2**63 - 1)


class Data:
    """The numbers that every data set takes."""

    train = Bounds(ge=1)
    valid = Bounds(ge=1)
    test = Bounds(ge=0)
    label_noise = Bounds(ge=0.0, lt=1.0)
    seed = SEED


class Mlp:
    """Each entry of a list, and the length of the list."""

    hidden = Bounds(ge=1, limit=65_536)
    hidden_layers = Len(0, 32)


class Cnn:
    """Each entry of a list, and the length of the list."""

    channels = Bounds(ge=1, limit=4096)
    convolutions = Len(1, 8)


class Training:
    """The inner problem."""

    steps = Bounds(ge=1, limit=1_000_000)
    batch_size = Bounds(ge=1, limit=1_000_000)
    evaluation_rows = Bounds(ge=1, limit=1_000_000)
    learning_rate = Bounds(gt=0.0, limit=1000.0)
    momentum = Bounds(ge=0.0, lt=1.0)
    eps = Bounds(gt=0.0, limit=1.0)
    smoothing = Bounds(ge=0.0, lt=1.0)
    weight_decay = Bounds(ge=0.0, limit=100.0)
    accumulate = Bounds(ge=1, limit=10_000)
    data_workers = Bounds(ge=0, limit=64)
    clip_norm = Bounds(gt=0.0, limit=1e9)
    clip_value = Bounds(gt=0.0, limit=1e9)


class Schedule:
    """The schedule of the learning rate; of a list, each entry."""

    warmup = Bounds(ge=0.0, limit=1e6)
    final = Bounds(ge=0.0, limit=1000.0)
    start = Bounds(ge=0.0, limit=1000.0)
    every = Bounds(gt=0.0, limit=1e6)
    milestones = Bounds(gt=0.0, limit=1e6)
    factor = Bounds(ge=0.0, limit=1000.0)
    factors = Bounds(ge=0.0, limit=1000.0)
    at = Bounds(ge=0.0, le=1.0)
    timescale = Bounds(gt=0.0, limit=1e9)


class Meta:
    """The outer problem."""

    learning_rate = Bounds(gt=0.0, limit=1000.0)
    iterations = Bounds(ge=1, limit=100_000)
    rollback_tolerance = Bounds(gt=0.0)
    max_rollbacks = Bounds(ge=0, limit=100)
    patience = Bounds(ge=1)
    confirmation = Bounds(ge=0.0, le=0.5)
    judging_share = Bounds(ge=0.0, le=0.5)
    regularization = Bounds(ge=0.0, limit=1e6)


class Online:
    """An outer problem whose meta-iterations are windows of one training run."""

    window = Bounds(ge=1, limit=1_000_000)
    validation_batch = Bounds(ge=1, limit=1_000_000)


class Auto:
    min_cosine = Bounds(gt=0.0, le=1.0)


class Shortcut:
    budget = Bounds(ge=2, limit=1024)
    interpolation_nodes = Bounds(ge=1, limit=1024)
    averaging_window = Bounds(ge=1, limit=10_000)
    max_stride = Bounds(ge=1, limit=1000)
    max_adjoint_change = Bounds(gt=0.0, limit=1.0)
    minibatch_subsampling = Bounds(ge=1, limit=1000)


class Implicit:
    iterations = Bounds(ge=1, limit=100_000)
    tolerance = Bounds(gt=0.0, le=1.0)
    damping = Bounds(ge=0.0, limit=1e6)
    step_size = Bounds(gt=0.0, limit=1000.0)


class Validation:
    """The validation of a hypergradient by retraining; of a list, each entry."""

    changes = Bounds(ge=5, limit=1000)
    draws = Bounds(ge=2, limit=64)
    fractions = Bounds(gt=0.0, lt=1.0)
    radii = Bounds(gt=0.0, limit=1000.0)
    seed = SEED


class Attribution:
    """The attribution of queries to training examples."""

    lds = Bounds(ge=0, limit=1000)
    left_out = Bounds(gt=0.0, lt=1.0)
    draws = Bounds(ge=1, limit=64)


class Retraining:
    """Training from scratch with tuned hyperparameters."""

    seeds = Bounds(ge=2, limit=100)
    threshold = Bounds(gt=0.0, lt=1.0)
    drop_lowest = Bounds(gt=0.0, limit=1e9)
