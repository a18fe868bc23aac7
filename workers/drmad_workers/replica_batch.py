"""Several replicas on one device as one batched computation.

The weights of R replicas are the rows of one matrix (R, P). torch.func.vmap maps the model over
the rows and over the minibatches. The gradient of the sum of the losses then holds the gradients of
all replicas, and so does a Hessian-vector product. Elementwise operations (the inner update and its
reverse, interpolation nodes, snapshots) are those of a single run with one more axis.
"""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from drmad_client.spec import refusals
from drmad_workers.data.minibatches import StackedMinibatches
from drmad_workers.data.shards import Shards
from drmad_workers.evaluation import Evaluation, evaluate
from drmad_workers.hypergradients.automatic.auto import Auto
from drmad_workers.hypergradients.automatic.choice import Choice
from drmad_workers.hypergradients.automatic.usefulness import OuterLoop
from drmad_workers.hypergradients.method import Method
from drmad_workers.hyperparameters.base import Kind
from drmad_workers.hyperparameters.rates import BoundRate
from drmad_workers.objective.objective import Objective
from drmad_workers.problem import Batch, Problem
from drmad_workers.training.config import TrainingConfig
from drmad_workers.training.progress import Monitor, OnProgress
from drmad_workers.tuning import Tuner


class ReplicaBatch:
    """Computes the evaluations of R tuners, at less than R times the cost of one.

    The replicas differ in their initial weights, their minibatches and their shards of the data.
    A method that visits the same points in every replica (Method.lockstep) is batched in both
    directions. Otherwise only the training is batched, and the backward passes run in turn.

    Attributes:
        tuners: the tuner of each replica, R in all.
        reason: why the replicas are computed one after the other; None if they are batched.
    """

    def __init__(
        self,
        problem: Problem,
        kinds: Sequence[Kind],
        training: TrainingConfig,
        method: Method,
        seed: int = 0,
        replicas: Sequence[int] = (0,),
        device: str | torch.device = "cpu",
        dtype: torch.dtype | None = None,
        shards: Shards | None = None,
    ) -> None:
        """`replicas` holds the number of each replica; Tuner documents the other arguments."""
        self.tuners: Sequence[Tuner] = [
            Tuner(problem, kinds, training, method, seed, replica, device, dtype, shards)
            for replica in replicas
        ]
        self._replicas = [tuner.replica for tuner in self.tuners]
        self._method = self._replicas[0].method
        first = self._replicas[0]
        with first.at_work():
            first.objective.parameters.attach()
            first.objective.set_hyperparameters(self.initial_values())
            self._stacked = first.objective.stacked(len(self._replicas))
            self.reason = self._refusal()

    def initial_values(self) -> dict[str, Tensor]:
        """The initial λ by name."""
        return self._replicas[0].initial_values()

    def close(self) -> None:
        """Ends the processes that read data; a later run begins new ones."""
        for tuner in self.tuners:
            tuner.close()

    def evaluate(
        self,
        values: Mapping[str, Tensor],
        iteration: int,
        should_stop: Callable[[], bool] | None = None,
        on_progress: OnProgress | None = None,
        choice: Choice | None = None,
        draw: int | None = None,
        outer: OuterLoop | None = None,
    ) -> list[Evaluation]:
        """One Evaluation per replica; see Tuner.evaluate.

        The seconds of each are those of the whole batch. If one replica diverges, the evaluation
        of all ends.

        Raises:
            TrainingDiverged, HypergradientError, Stopped, ProblemError.
        """
        if self.reason is not None:
            return [
                tuner.evaluate(values, iteration, should_stop, on_progress, choice, draw, outer)
                for tuner in self.tuners
            ]
        draw = iteration if draw is None else draw
        monitor = Monitor(should_stop, on_progress)
        return evaluate(
            self._replicas, self._method, values, iteration, draw, monitor, stacked=self._stacked
        )

    def _refusal(self) -> str | None:
        """Why the replicas cannot be batched; None if they can.

        The last checks compare a gradient and a Hessian-vector product of the batch with those of
        the single replicas.
        """
        stacked, single = self._stacked, self._replicas[0].objective
        if isinstance(self._method, Auto):
            return refusals.AUTO_NOT_BATCHED
        if self._method.takes_part:
            return refusals.steps_not_batched(self._method.name)
        for bound in single.values.bound.values():
            if isinstance(bound, BoundRate):
                return refusals.rate_not_batched(bound.name)
        if single.parameters.stochastic:
            return "the model draws random numbers (dropout), which differ between replicas"
        if not self._replicas[0].train_examples.is_uniform:
            return "a collate function makes the minibatches, whose shapes may differ"
        if single.parameters.carried:
            return "training changes the model's buffers (running statistics)"
        minibatches = [replica.minibatches(0) for replica in self._replicas]
        expected = [self._derivatives(single, own.join(0)) for own in minibatches]
        stacked.set_hyperparameters(self.initial_values())
        weights = stacked.parameters.weights
        weights.copy_(single.parameters.weights.expand_as(weights))
        batch = StackedMinibatches(minibatches, self._replicas[0].train_examples).join(0)
        try:
            found = self._derivatives(stacked, batch)
        except (RuntimeError, NotImplementedError, TypeError, ValueError) as error:
            return f"torch.func.vmap cannot map the model: {str(error).splitlines()[0]}"
        if not torch.allclose(found, torch.stack(expected, dim=1), rtol=1e-3, atol=1e-5):
            return (
                "the derivatives under torch.func.vmap differ from those of a single replica (does"
                " the model keep weights elsewhere than in attributes of its modules?)"
            )
        return None

    def _derivatives(self, objective: Objective, batch: Batch) -> Tensor:
        """∇_w L and its derivative along a constant direction, shape (2, ..., P)."""
        weights = objective.parameters.weights
        out = weights.new_zeros(2, *weights.shape)
        objective.begin_products()
        objective.inner.gradient(batch, out[0])
        objective.subtract_product(batch, torch.ones_like(weights), out[1])
        objective.end_products()
        return out
