"""One replica of a problem: its examples, its objective and its training runs."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TypeVar

import torch
from torch import Tensor

from drmad_workers.data.examples import Examples
from drmad_workers.data.minibatches import Minibatches
from drmad_workers.data.shards import Shards
from drmad_workers.devices import resolve_device
from drmad_workers.distributed.workers import ALONE, Workers
from drmad_workers.errors import ProblemError
from drmad_workers.global_generators import restored_generators
from drmad_workers.hypergradients.automatic.auto import Auto
from drmad_workers.hypergradients.backward_pass import ReplicaRun
from drmad_workers.hypergradients.method import Method, require_derivatives
from drmad_workers.hyperparameters.base import BoundHyperparameter, Kind, Setting, slots_of
from drmad_workers.hyperparameters.binding import bind_all
from drmad_workers.hyperparameters.groups import frozen, patterns_of, require_members
from drmad_workers.numerics import numerics, rounding_of
from drmad_workers.objective.checks.derivative_checks import (
    check_problem,
    require_loss_shapes,
)
from drmad_workers.objective.checks.model_checks import require_losses_of_model, require_trainable
from drmad_workers.objective.checks.side_effects import no_side_effects, registers_buffers
from drmad_workers.objective.checks.sums_over_rows import (
    require_mean_over_rows,
    require_static,
)
from drmad_workers.objective.held_out_rows import HeldOutRows
from drmad_workers.objective.objective import Objective
from drmad_workers.objective.parameters.carried import ModelWatch
from drmad_workers.objective.parameters.initial_weights import initialize
from drmad_workers.objective.products.product import PRODUCTS
from drmad_workers.objective.products.right_product import chosen_product
from drmad_workers.problem import Problem
from drmad_workers.random_streams import WEIGHTS, seed_of
from drmad_workers.training.config import TrainingConfig
from drmad_workers.training.optimizers.rule_optimizer import require_rule
from drmad_workers.training.progress import Monitor
from drmad_workers.training.run import TrainingRun

T = TypeVar("T")


class Replica:
    """A problem with the examples and the random streams of one replica.

    Attributes:
        hyperparameters: the tuned hyperparameters by name, bound to the problem.
        objective: the inner and the outer objective.
        train_examples: the training examples that the replica holds.
        valid_examples: the validation examples of its hypergradient.
        judging_examples: the validation examples that judge and enter no hypergradient; None if
            all are differentiated.
        test_examples: all test examples; None if the problem has none.
        training: the settings of the training run.
        method: the method, with the product that is right for the problem.
        device: the device of all tensors.
        workers: those that share the training runs now; see `shared_by`.
    """

    def __init__(
        self,
        problem: Problem,
        kinds: Sequence[Kind],
        training: TrainingConfig,
        method: Method,
        seed: int,
        number: int,
        device: str | torch.device,
        dtype: torch.dtype | None,
        shards: Shards | None,
    ) -> None:
        """See Tuner; `number` is that of the replica."""
        self.device = resolve_device(device)
        self.workers: Workers = ALONE
        self.training = training.with_rule(problem.optimizer)
        self._seed = seed
        self._number = number
        self._problem = problem
        require_members(
            patterns_of(training.groups),
            [name for name, _ in problem.model.named_parameters()],
            "training.groups",
            "training.groups",
        )
        with self.at_work():
            self._prepare(kinds, method, dtype or training.dtype, shards or Shards())

    def _prepare(
        self, kinds: Sequence[Kind], method: Method, dtype: torch.dtype, shards: Shards
    ) -> None:
        """Binds the hyperparameters, and checks every derivative once."""
        problem, training, seed, number = self._problem, self.training, self._seed, self._number
        require_trainable(problem.model)
        require_losses_of_model(problem)
        place = (self.device, dtype, seed, problem.collate_fn)
        workers = training.data_workers
        train = Examples(problem.train, "train", *place, fixed=False, workers=workers)
        valid = Examples(problem.valid, "valid", *place, workers=workers)
        self.train_examples = train.part(shards.positions("train", train.rows, number))
        differentiated, judging = shards.validation(valid.rows, number)
        self.valid_examples = valid.part(differentiated)
        self.judging_examples = None if judging is None else valid.part(judging)
        self.test_examples = (
            None
            if problem.test is None
            else Examples(problem.test, "test", *place, workers=workers)
        )
        slots = slots_of(problem.model)
        setting = Setting(
            problem,
            slots,
            train,
            steps=training.steps,
            learning_rate=training.learning_rate,
            momentum=training.first_decay,
            weight_decay=training.weight_decay,
            dtype=dtype,
            seed=seed,
            groups=training.groups,
        )
        self.hyperparameters: dict[str, BoundHyperparameter] = bind_all(kinds, setting)
        self.require(method)

        def objective() -> Objective:
            made = Objective(
                problem,
                self.hyperparameters,
                slots,
                self.device,
                dtype,
                memory_rows=training.memory_rows,
                autocast=training.precision == "bfloat16",
                rounding=(
                    torch.finfo(dtype).eps
                    if training.dtype != dtype
                    else rounding_of(training.precision, self.device)
                ),
                held_out=HeldOutRows(training.evaluation_rows, training.batch_size, seed),
                batch_size=training.batch_size,
            )
            made.product = PRODUCTS[method.hvp]
            made.parameters.attach()
            made.set_hyperparameters(self.initial_values())
            return made

        self.objective = objective()
        if problem.optimizer is not None:
            require_rule(
                problem.optimizer,
                [slot.shape for slot in slots],
                self.objective.parameters.weights,
            )
        batch, weights_seed = self.minibatches(0).join(0), seed_of(WEIGHTS, seed, 0, number)
        given = ModelWatch(self.objective.parameters.held)
        initialize(self.objective, weights_seed)
        with no_side_effects(self.objective, batch, "inner_loss"):
            later = registers_buffers(
                problem.model, lambda: require_loss_shapes(self.objective, batch)
            )
        self.objective.parameters.restore_given()
        given.restore()
        if later:
            self.objective = objective()
        try:
            first_step = 0 in method.steps(training)
            check_problem(self.objective, batch, self.valid_examples, weights_seed, first_step)
            is_free = isinstance(method, Auto)
            hvp = chosen_product(self.objective, batch, method.hvp, is_free)
            self.method = replace(method, hvp=hvp)
        finally:
            self.objective.parameters.restore_given()

    def initial_values(self) -> dict[str, Tensor]:
        """The initial λ by name."""
        return {name: bound.initial.clone() for name, bound in self.hyperparameters.items()}

    def require(self, method: Method) -> None:
        """Raises ProblemError unless the method fits the training and the hyperparameters."""
        method.check(self.training)
        require_derivatives(method, self.hyperparameters.values(), self.training)

    @property
    def epoch_steps(self) -> int:
        """The steps of the window over which the training loss is averaged."""
        training = self.training
        epoch = self.train_examples.rows // (training.batch_size * training.accumulate)
        return min(self.training.steps, max(1, epoch))

    @property
    def copy_bytes(self) -> int:
        """The bytes of a point of the trajectory: of the weights, or of Adam's whole state."""
        return self.training.path_rows * self.objective.parameters.weights.nbytes

    def trajectory_bytes(
        self, methods: Sequence[Method], training: TrainingConfig
    ) -> dict[Method, int]:
        """What each method keeps of the trajectory of a run with these settings.

        They may differ from those of the replica in the number of steps.
        """
        return self._of_run(
            lambda run: {method: method.trajectory_bytes(run, training) for method in methods}
        )

    def exceeded(self, method: Method) -> list[str]:
        """The bounds of memory that the method cannot keep: a sentence each."""
        return self._of_run(method.exceeded)

    def _of_run(self, measure: Callable[[TrainingRun], T]) -> T:
        """What is measured of a run at its first weights."""
        parameters = self.objective.parameters
        with self.at_work():
            run = self.training_run(self.initial_values(), 0, Monitor()).run
            try:
                return measure(run)
            finally:
                parameters.restore_given()

    def minibatches(self, draw: int) -> Minibatches:
        """The minibatches of draw `draw`, of which `join` takes the rows of this worker."""
        return self._minibatches(draw, self.workers)

    def _minibatches(self, draw: int, workers: Workers) -> Minibatches:
        batch_size = self.training.batch_size
        return Minibatches(self.train_examples, batch_size, self.stream(draw), workers)

    def require_shareable(self, workers: int) -> None:
        """Raises ProblemError unless so many workers can share a training run; see `shared_by`.

        It compares gradients of minibatches with those of their parts.
        """
        objective, batch_size = self.objective, self.training.batch_size
        if batch_size < workers:
            raise ProblemError(
                f"batch_size must be at least the number of workers, {workers}, which split each "
                f"minibatch, got {batch_size}: take larger minibatches or fewer workers",
                "training.batch_size",
            )
        with self.at_work():
            objective.parameters.attach()
            objective.set_hyperparameters(self.initial_values())
            require_static(objective)
            try:
                initialize(objective, seed_of(WEIGHTS, *self.stream(0)))
                require_mean_over_rows(
                    objective,
                    self._minibatches(0, ALONE),
                    self.train_examples,
                    self.valid_examples,
                    workers,
                )
            finally:
                objective.parameters.restore_given()

    @contextmanager
    def shared_by(self, workers: Workers) -> Iterator[None]:
        """Has the workers share the training runs and the held-out passes inside.

        Each of them calls the same with the same arguments. Every minibatch is split by rows, and
        the derivatives are summed over the workers, so that each of them has the same results, as
        if one had computed them.
        """
        self.workers = workers
        self.objective.share(workers)
        try:
            yield
        finally:
            self.workers = ALONE
            self.objective.share(ALONE)

    def stream(self, draw: int) -> tuple[int, int, int]:
        """The numbers that determine w_0 and the minibatches of draw `draw`, see random_streams."""
        return self._seed, draw, self._number

    def close(self) -> None:
        """Ends the processes that read data; a later run begins new ones."""
        for examples in (self.train_examples, self.valid_examples, self.test_examples):
            if examples is not None and examples.ahead is not None:
                examples.ahead.close()

    def training_run(self, values: Mapping[str, Tensor], draw: int, monitor: Monitor) -> ReplicaRun:
        """The training run at λ whose w_0 and minibatches belong to draw `draw`."""
        objective = self.objective
        objective.parameters.attach()
        objective.set_hyperparameters(values)
        if self.workers.size > 1:
            require_static(objective)  # what changes may be found after the first run
        run = TrainingRun(objective, self.training, self.minibatches(draw), monitor)
        return ReplicaRun(run, seed_of(WEIGHTS, *self.stream(draw)), self.valid_examples)

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Freezes the frozen groups, and has the device compute as the training states.

        Restores all of it and the global random generators on exit.
        """
        problem, training = self._problem, self.training
        drawn = problem.initialize is not None  # it may write into parameters that are frozen
        with (
            numerics(self.device, training.precision, training.deterministic),
            restored_generators(self.device),
            frozen(problem.model, training.groups, drawn),
        ):
            yield
