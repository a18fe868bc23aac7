"""Whether the losses of a problem are sums over rows, so that workers can share a training run."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from drmad_workers.data.examples import Examples
from drmad_workers.data.minibatches import Minibatches
from drmad_workers.errors import ProblemError
from drmad_workers.global_generators import seed_all
from drmad_workers.hyperparameters.sample_weight import BoundGroupWeight, BoundSampleWeight
from drmad_workers.objective.objective import Objective
from drmad_workers.problem import Batch

FIELD = "replicas.workers"
ALONE = "or set replicas.workers to 1"

COMPARED = 3
"""The minibatches that are compared: in one of them the parts may agree by chance."""

Figures = tuple[Tensor, Tensor | None]
"""A loss, shape (), and its gradient, shape (P,), if it is compared."""


def require_static(objective: Objective) -> None:
    """Raises ProblemError if the training draws random numbers or changes buffers.

    A worker would draw other numbers for its rows, and move the buffers by its own rows alone.
    """
    parameters = objective.parameters
    norms = [
        name
        for name, module in parameters.model.named_modules()
        if isinstance(module, _BatchNorm) and module.training
    ]
    if norms:
        raise ProblemError(
            f"workers must not share a model with batch normalisation, got {', '.join(norms)}: its "
            "outputs depend on the other rows of the minibatch, of which a worker has a part; use "
            f"group or layer normalisation, put it in evaluation mode, {ALONE}",
            FIELD,
        )
    if parameters.carried:
        names = ", ".join(value.place.path for value in parameters.carried.values)
        raise ProblemError(
            f"workers must not share a training that changes buffers, got {names}: each worker "
            f"would change them by its own rows; freeze them, {ALONE}",
            FIELD,
        )
    if parameters.stochastic:
        raise ProblemError(
            "workers must not share a training that draws random numbers, such as dropout: each "
            "worker would draw others than one worker draws for the same rows; set the dropout to "
            f"0, {ALONE}",
            FIELD,
        )


def require_mean_over_rows(
    objective: Objective, minibatches: Minibatches, train: Examples, valid: Examples, workers: int
) -> None:
    """Raises ProblemError unless the losses of a batch are the means of those of its rows.

    On the first minibatches the training loss and its gradient are compared with the means over two
    ways to split the rows: that of the workers, and the first row apart from the others. So is the
    outer loss, on a part of the validation examples.

    Args:
        objective: the objective at the weights of the comparison, not shared.
        minibatches: those of all rows.
        train, valid: the training and the validation examples.
        workers: the number of workers.
    """
    for bound in objective.values.bound.values():
        if isinstance(bound, BoundSampleWeight | BoundGroupWeight) and bound.normalised:
            raise ProblemError(
                f"{bound.name} must not be normalised where workers share a training run: the sum "
                "of the weights in a minibatch belongs to the rows of all workers; set normalised "
                f"to false, {ALONE}",
                FIELD,
            )
    for step in range(min(COMPARED, minibatches.per_epoch)):
        index = minibatches.index(step)
        seeds = minibatches.seeds(step) if train.draws else None

        def of(rows: Sequence[int], index: Tensor = index, seeds: Any = seeds) -> Figures:
            drawn = None if seeds is None else [seeds[row] for row in rows]
            return _inner(objective, train.take(index[list(rows)], drawn))

        _require_means(objective, "the training loss", len(index), workers, of)
    positions = valid.positions
    if positions is None:
        positions = torch.arange(valid.rows, device=valid.device)
    count = min(valid.rows, minibatches.batch_size)
    if count > 1:
        _require_means(
            objective,
            "the outer loss",
            count,
            workers,
            lambda rows: (_outer(objective, valid.part(positions[list(rows)])), None),
        )


def _require_means(
    objective: Objective,
    what: str,
    rows: int,
    workers: int,
    of: Callable[[Sequence[int]], Figures],
) -> None:
    """Raises ProblemError unless a loss, and its gradient, are means over the rows."""
    expected, gradient = of(range(rows))
    by_workers = [range(rank, rows, workers) for rank in range(min(workers, rows))]
    for split in (by_workers, [range(1), range(1, rows)] if rows > 1 else []):
        parts = [(len(own) / rows, *of(own)) for own in split]
        found = sum((share * loss for share, loss, _ in parts), torch.zeros_like(expected))
        rounding = objective.losses.rounding
        if parts and not _agree(expected.reshape(1), found.reshape(1), rounding):
            detail = f"it is {float(expected):.9g}, and the mean of the parts' {float(found):.9g}"
            raise _not_a_mean(what, detail)
        if parts and gradient is not None:
            summed = torch.zeros_like(gradient)
            for share, _, part in parts:
                if part is not None:
                    summed.add_(part, alpha=share)
            if not _agree(gradient, summed, rounding):
                raise _not_a_mean(what, "its gradient differs from the mean of the parts'")


def _inner(objective: Objective, batch: Batch) -> tuple[Tensor, Tensor]:
    """The training loss and its gradient, with penalties, on a batch."""
    gradient = torch.empty_like(objective.parameters.weights)
    return objective.inner.gradient(batch, gradient), gradient


def _outer(objective: Objective, examples: Examples) -> Tensor:
    parameters = objective.parameters
    parameters.eval()
    try:
        seed_all(0)
        with torch.set_grad_enabled(objective.losses.outer_needs_grad):
            return objective.losses.outer(examples.chunk(0, examples.rows)).detach()
    finally:
        parameters.train()


def _agree(expected: Tensor, found: Tensor, rounding: float) -> bool:
    """Whether two results differ by rounding alone."""
    difference = torch.linalg.vector_norm(expected - found)
    return bool(difference <= rounding**0.5 * (1e-3 + torch.linalg.vector_norm(expected)))


def _not_a_mean(what: str, detail: str) -> ProblemError:
    return ProblemError(
        f"{what} must be the mean of the losses of its rows where workers share a training run, "
        f"and on a minibatch that is split among them {detail}: a loss over pairs of rows, mixup, "
        "a mean over tokens, a custom normalisation or a hook that clips gradients depends on the "
        f"other rows; make it a mean over rows, {ALONE}",
        FIELD,
    )
