"""The problem on which proofs run: the job's own, with few steps and the first rows of its data."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.data import Subset

from drmad_workers import spec_adapter, trees
from drmad_workers.data.columns import columns_of
from drmad_workers.hypergradients import Forward, Replay, Stored
from drmad_workers.hypergradients.method import Method
from drmad_workers.objective.plain_objective import PlainObjective, restored
from drmad_workers.preflight.proofs.wide_precision import has_float32, widened
from drmad_workers.problem import Data, Problem
from drmad_workers.replica import Replica
from drmad_workers.training.config import TrainingConfig
from drmad_workers.training.progress import Monitor
from drmad_workers.training.run import TrainingRun
from drmad_workers.tuning import Tuner

if TYPE_CHECKING:
    from drmad_client.spec.job import JobSpec

VALID_ROWS = 500
"""Bounds the held-out rows that a proof reads."""
FLOAT64_BYTES = 2**30
"""Bounds the weights of a model that is tried in float64, in bytes."""
STORED_BYTES = 2**28
"""Bounds the trajectory of the job that is stored instead of replayed, in bytes."""
TOLERANCE: dict[str, float | None] = {"exact": None, "finite_difference": 0.05}
"""The relative error of a right derivative by the product; None takes that of rounding. A
difference of gradients has the kinks within its own distance."""


@dataclass(frozen=True)
class ShortProblem:
    """The engine's tuner of the short problem, and the user's own losses beside it.

    Attributes:
        tuner: the engine, with an exact method.
        training: the settings of its training runs.
        plain: the same losses at the user's own module.
        dtype: float64, or float32 where the model does not allow it.
        precision: how a text names the type, with the reason if it is not that of the job.
    """

    tuner: Tuner
    training: TrainingConfig
    plain: PlainObjective
    dtype: torch.dtype
    precision: str

    @property
    def replica(self) -> Replica:
        return self.tuner.replica

    def run(self, values: dict[str, Tensor]) -> tuple[TrainingRun, int]:
        """A training run at λ, which draws minibatches and noise, and the seed of its w_0.

        The model then has the weights that it was given.
        """
        own = self.replica.training_run(values, 0, Monitor())
        self.tuner.objective.parameters.restore_given()
        return own.run, own.weights_seed

    def require_gradient(self) -> bool:
        """Takes a gradient at w_0; raises what the user's code raises in this type.

        Returns:
            Whether all values are of this type, so that none is rounded to float32.
        """
        values = self.tuner.initial_values()
        run, seed = self.run(values)
        with restored(self.plain.model), torch.random.fork_rng():
            run.objective.parameters.draw(seed, run.objective.problem.initialize)
            loss = self.plain.training_loss(self.transformed(values), run.batch(0))
            loss.backward()  # type: ignore[no-untyped-call]
            return self.dtype == torch.float32 or not has_float32(loss)

    def transformed(self, values: dict[str, Tensor]) -> dict[str, Tensor]:
        """transform(λ) by name, on the device."""
        device = self.replica.device
        return {n: b.value(values[n].to(device)) for n, b in self.tuner.hyperparameters.items()}


def short_problem(spec: JobSpec, problem: Problem, steps: int, device: str) -> ShortProblem:
    """The job's problem with `steps` inner steps, in float64 if its code runs in it."""
    shortened = spec.model_copy(update={"training": spec.training.over(steps)})
    stated = spec_adapter.training(shortened).with_rule(problem.optimizer)
    training = replace(stated, precision="float32")
    rows = min(20, steps) * training.batch_size * training.accumulate
    small = replace(
        problem,
        train=first_rows(problem.train, rows),
        valid=first_rows(problem.valid, VALID_ROWS),
        test=None,
        columns={name: column[:rows] for name, column in problem.columns.items()},
    )
    weights = sum(p.numel() for p in problem.model.parameters() if p.requires_grad)
    method = exact_method(spec, 4 * weights * training.path_rows * spec.training.steps)
    kinds = spec_adapter.kinds(spec)

    def made(own: Problem, dtype: torch.dtype, precision: str) -> tuple[ShortProblem, bool]:
        tuner = Tuner(own, kinds, training, method, seed=spec.seed, device=device, dtype=dtype)
        short = ShortProblem(tuner, training, PlainObjective(tuner.objective), dtype, precision)
        return short, short.require_gradient()

    autocast = " without autocast" if spec.training.precision == "bfloat16" else ""
    reason = "the model is large"
    if 8 * weights <= FLOAT64_BYTES:
        reason = "its code computes in float32"
        for own, where in ((small, ""), (widened(small), ", also where its code says float32")):
            try:
                short, is_pure = made(own, torch.float64, f"float64{autocast}{where}")
            except Exception as error:  # the user's code may do anything with an unknown type
                reason = f"in float64 its code raises {type(error).__name__}"
                break
            if is_pure:
                return short
    return made(small, torch.float32, f"float32{autocast}, because {reason}")[0]


def exact_method(spec: JobSpec, trajectory: int) -> Method:
    """The job's own method, if it is exact over all steps, and else one that is.

    `trajectory` is the number of bytes of all points of the trajectory.
    """
    own = spec_adapter.method(spec.hypergradient)
    if isinstance(own, Forward):
        return own
    if isinstance(own, Replay) or trajectory > STORED_BYTES:
        return Replay(hvp=own.hvp)
    return Stored(hvp=own.hvp)


def first_rows(data: Data, rows: int) -> Data:
    """The first rows of a data set, with memory of their own where they are tensors."""
    content = columns_of(data)
    if content is not None:
        return trees.mapped_tensors(lambda column: column[:rows].clone(), content)
    found: Any = Subset(data, range(min(rows, len(data))))
    return found
