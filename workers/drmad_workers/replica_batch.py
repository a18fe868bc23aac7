"""Several replicas on one device as one batched computation.

The weights of R replicas are the rows of one matrix (R, P). The loss is the sum of theirs, so its
gradient and its Hessian-vector products are those of every replica side by side: torch.func.vmap
takes the model over weights and minibatches, and everything elementwise (the inner update, its
reverse, knots, snapshots) is the code of a single run on one more axis.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from drmad_workers.data.examples import Examples
from drmad_workers.data.minibatches import Minibatches
from drmad_workers.data.shards import Shards
from drmad_workers.devices import resolve_device
from drmad_workers.hypergradients.auto import Auto, Choice
from drmad_workers.hypergradients.method import Adjoint, Method
from drmad_workers.hyperparameters.kinds import BoundRate, Kind
from drmad_workers.objective.held_out import diagnostic_figures, held_out_figures, model_state
from drmad_workers.objective.objective import Objective
from drmad_workers.problem import Batch, Problem
from drmad_workers.random_streams import WEIGHTS, seed_of
from drmad_workers.training.progress import Monitor, OnProgress
from drmad_workers.training.run import TrainingConfig, TrainingRun, TrajectoryRecorder
from drmad_workers.tuning import Clock, Evaluation, Tuner, peak_memory_bytes


class StackedObjective(Objective):
    """The objectives of R replicas in one: `weights` has shape (R, P), a loss shape (R,).

    Hyperparameters are those of all replicas; their derivatives gather by replica, with a leading
    axis R.
    """

    def __init__(self, like: Objective, replicas: int) -> None:
        rows, size = like.state.shape
        super().__init__(
            like.problem, like.bound, like.slots, like.device, like.dtype, rows - 1, like.autocast
        )
        self._replicas = replicas
        self._originals = self.parameters
        self.state = like.state.new_zeros(rows, replicas, size)
        self.weights = self.state[0]
        self.parameters = [part.requires_grad_() for part in self.parts(self.weights.detach())]
        self._current: Sequence[Tensor] = self.parameters
        offsets = torch.arange(replicas, device=like.device)[:, None]
        self._offsets = {name: offsets * like.bound[name].shape[0] for name in self._row_names}

    def attach(self) -> None:
        """The model stays where it is: it is called with the stacked weights alone."""
        self.train()

    def set_hyperparameters(self, raw: Mapping[str, Tensor]) -> None:
        super().set_hyperparameters(raw)
        for name in self._leaf_names:
            self._named[name] = self._spread(self.values[name])

    def begin_products(self) -> None:
        super().begin_products()
        for name, value in self.values.items():
            self._totals[name] = torch.zeros_like(self._spread(value))
        for name in self._leaf_names:
            self._named[name] = self._spread(self.values[name]).clone().requires_grad_()

    def share(self, replica: int, single: Objective) -> None:
        """Adds the derivatives of one replica, as gathered here, to its own objective's."""
        single.add_products(
            {name: total[replica] for name, total in self._totals.items()},
            [penalty.products[replica] for penalty in self._penalties],
        )

    @contextmanager
    def elsewhere(self) -> Iterator[None]:
        try:
            yield
        finally:
            self._current = self.parameters

    def _move(self, weights: Tensor) -> Sequence[Tensor]:
        self._current = [part.requires_grad_() for part in self.parts(weights.detach())]
        return self._current

    def _inner_loss(self, batch: Batch, rows: Mapping[str, Tensor]) -> Tensor:
        named, leaves = self._named, {name: self._named[name] for name in self._leaf_names}

        def of_one(
            parameters: list[Tensor],
            leaves: dict[str, Tensor],
            rows: dict[str, Tensor],
            inputs: Tensor,
            targets: Tensor,
            index: Tensor,
        ) -> Tensor:
            for module, name, number in self._places:
                module._parameters[name] = parameters[number]  # type: ignore[assignment]
            self._named = named | leaves
            return super(StackedObjective, self)._inner_loss(Batch(inputs, targets, index), rows)

        try:
            losses: Tensor = torch.func.vmap(of_one)(
                list(self._current), leaves, dict(rows), batch.inputs, batch.targets, batch.index
            )
        finally:
            self._named = named
            for module, name, number in self._places:
                module._parameters[name] = self._originals[number]  # type: ignore[assignment]
        return losses

    def _rows_of(self, batch: Batch) -> dict[str, Tensor]:
        found = {}
        for name in self._row_names:
            taken = self.values[name].index_select(0, batch.index.reshape(-1))
            found[name] = taken.view(batch.index.shape + taken.shape[1:])
        return found

    def _subtract_rows(self, name: str, index: Tensor, part: Tensor) -> None:
        total = self._totals[name].flatten(0, 1)
        index = (index + self._offsets[name]).reshape(-1)
        total.index_add_(0, index, part.flatten(0, 1), alpha=-1)

    def _join(self, parts: Sequence[Tensor | None], out: Tensor) -> None:
        # vmap hands the gradient of a matrix over transposed: one pass lays it out, not two.
        for view, part in zip(self.parts(out), parts, strict=True):
            if part is None:
                view.zero_()
            else:
                view.copy_(part)
        for penalty in self._penalties:
            penalty.add_gradient(self.weights, out)

    def _spread(self, value: Tensor) -> Tensor:
        return value.expand(self._replicas, *value.shape)


class StackedMinibatches(Minibatches):
    """The minibatches of R replicas side by side: (R, rows, ...)."""

    def __init__(self, singles: Sequence[Minibatches], examples: Examples) -> None:
        self._singles = singles
        self._examples = examples

    def index(self, step: int, count: int = 1, every: int = 1) -> Tensor:
        return torch.stack([single.index(step, count, every) for single in self._singles])

    def join(self, step: int, count: int = 1, every: int = 1) -> Batch:
        index = self.index(step, count, every)
        batch = self._examples.take(index.reshape(-1))
        inputs, targets = (
            part.view(index.shape + part.shape[1:]) for part in (batch.inputs, batch.targets)
        )
        return Batch(inputs, targets, index)


class EachItsOwn:
    """A recorder for every replica, shown its own row of the path."""

    def __init__(
        self, recorders: Sequence[TrajectoryRecorder], runs: Sequence[TrainingRun]
    ) -> None:
        self._pairs = list(zip(recorders, runs, strict=True))
        self.next_step = recorders[0].next_step

    def visit(self, step: int, run: TrainingRun) -> None:
        for replica, (recorder, own) in enumerate(self._pairs):
            own.state.copy_(run.state[:, replica])
            recorder.visit(step, own)
        self.next_step = self._pairs[0][0].next_step


class ReplicaBatch:
    """What R tuners with replica numbers of their own give, at less than R times the cost.

    The replicas differ in their first weights, their minibatches and their shards of the data. A
    method that walks in lockstep (Method.lockstep) is batched both ways; where each replica finds
    its own strides only the training is, and the walks are taken one by one.

    Attributes:
        reason: why the replicas are computed one by one after all; None where they are not.
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
        dtype: torch.dtype = torch.float32,
        shards: Shards | None = None,
    ) -> None:
        """
        Raises:
            ProblemError: see Tuner.
        """
        self._training, self._method, self._seed = training, method, seed
        self._replicas = list(replicas)
        self._device = resolve_device(device)
        self._tuners = [
            Tuner(problem, kinds, training, method, seed, replica, device, dtype, shards)
            for replica in replicas
        ]
        self._singles = [tuner.objective for tuner in self._tuners]
        self._test = (
            None if problem.test is None else Examples(problem.test, "test", self._device, dtype)
        )
        with self._own_randomness():
            first = self._singles[0]
            first.attach()
            first.set_hyperparameters(self.initial_values())
            self._stacked = StackedObjective(first, len(self._replicas))
            self.reason = self._refusal()

    @property
    def tuners(self) -> Sequence[Tuner]:
        """Of each replica, in their order."""
        return self._tuners

    def initial_values(self) -> dict[str, Tensor]:
        """λ to start from, by name."""
        return self._tuners[0].initial_values()

    def evaluate(
        self,
        values: Mapping[str, Tensor],
        iteration: int,
        should_stop: Callable[[], bool] | None = None,
        on_progress: OnProgress | None = None,
        choice: Choice | None = None,
        draw: int | None = None,
    ) -> list[Evaluation]:
        """One Evaluation for every replica, as Tuner.evaluate gives it.

        The seconds are those of all replicas together. When one of them diverges, all end.

        Raises:
            TrainingDiverged, HypergradientDiverged, Stopped, ProblemError.
        """
        if self.reason is not None:
            return [
                tuner.evaluate(values, iteration, should_stop, on_progress, choice, draw)
                for tuner in self._tuners
            ]
        with self._own_randomness():
            try:
                draw = iteration if draw is None else draw
                return self._evaluate(values, draw, Monitor(should_stop, on_progress))
            finally:
                self._singles[0].attach()
                self._singles[0].restore_given()

    def _evaluate(
        self, values: Mapping[str, Tensor], draw: int, monitor: Monitor
    ) -> list[Evaluation]:
        stacked, method, training = self._stacked, self._method, self._training
        clock = Clock(self._device)
        draw = draw if training.resample else 0
        seeds = [seed_of(WEIGHTS, self._seed, draw, replica) for replica in self._replicas]
        stacked.set_hyperparameters(values)
        for row, seed, single in zip(stacked.weights, seeds, self._singles, strict=True):
            single.attach()
            single.set_hyperparameters(values)
            single.initialize(seed)
            row.copy_(single.weights)
        minibatches = self._minibatches(draw)
        run = TrainingRun(stacked, training, self._stack(minibatches), monitor)
        runs = [
            TrainingRun(single, training, own, monitor)
            for single, own in zip(self._singles, minibatches, strict=True)
        ]
        own_recorders = [] if method.lockstep else [method.recorder(own) for own in runs]
        recorder: TrajectoryRecorder
        recorder = method.recorder(run) if method.lockstep else EachItsOwn(own_recorders, runs)
        run.forward(recorder)
        clock.lap("forward")

        monitor.begin("evaluate", len(runs))
        adjoints = []
        found = []
        for replica, own in enumerate(runs):
            single = own.objective
            single.attach()
            own.state.copy_(run.state[:, replica])
            own.losses.copy_(run.losses[:, replica])
            found.append(self._figures(own, self._tuners[replica], monitor))
            single.begin_products()
            adjoints.append(Adjoint(own))
            valid = self._tuners[replica].valid_examples
            loss = single.outer_gradient(valid, adjoints[-1].weights, monitor.poll)
            found[-1].validation_loss = float(loss)
        clock.lap("evaluate")

        monitor.begin("backward", method.backward_total(training))
        if not method.lockstep:
            for own, own_recorder, adjoint in zip(runs, own_recorders, adjoints, strict=True):
                own.objective.attach()
                method.backward(own, own_recorder, adjoint)
        else:
            stacked.begin_products()
            together = Adjoint(run)
            together.weights.copy_(torch.stack([adjoint.weights for adjoint in adjoints]))
            method.backward(run, recorder, together)
            for replica, adjoint in enumerate(adjoints):
                stacked.share(replica, self._singles[replica])
                adjoint.weights.copy_(together.weights[replica])
                adjoint.products = together.products
        for figures, seed, single, adjoint in zip(
            found, seeds, self._singles, adjoints, strict=True
        ):
            if single.scales_initial_weights:
                single.attach()
                single.initialize(seed)
                single.add_initial(adjoint.weights)
            figures.hypergradient = single.hypergradient()
            figures.backward_steps = adjoint.products
        monitor.end()
        clock.lap("backward")
        peak = peak_memory_bytes(self._device)
        return [
            Evaluation(
                **vars(figures),
                seconds=clock.seconds,
                peak_memory_bytes=peak,
                method=method.name,
                cost=method.cost(training),
            )
            for figures in found
        ]

    def _figures(self, run: TrainingRun, tuner: Tuner, monitor: Monitor) -> "Figures":
        objective, training = run.objective, self._training
        valid = tuner.valid_examples
        metrics = held_out_figures(objective, valid, "validation", monitor.poll)
        metrics.pop("validation_loss")
        if self._test is not None:
            metrics |= held_out_figures(objective, self._test, "test", monitor.poll)
        epoch = tuner.train_examples.rows // training.batch_size
        return Figures(
            training_loss=run.training_loss(min(training.steps, max(1, epoch))),
            metrics=metrics,
            diagnostics=diagnostic_figures(objective),
            model=model_state(objective),
        )

    def _refusal(self) -> str | None:
        """Tries a gradient and a product both ways; why that cannot be batched, or None."""
        stacked, single = self._stacked, self._singles[0]
        if isinstance(self._method, Auto):
            return "auto looks at each replica by itself, and may choose differently"
        if self._method.takes_part:
            return f"{self._method.name} takes part in the training of each replica"
        for bound in single.bound.values():
            if isinstance(bound, BoundRate):
                return f"{bound.name} is tuned, and its derivatives gather one replica at a time"
        if single.stochastic:
            return "the model draws random numbers (dropout), which a replica draws by itself"
        buffers = single.buffers()
        batches = [own.join(0) for own in self._minibatches(0)]
        expected = [self._derivatives(single, batch) for batch in batches]
        changed = any(
            not torch.equal(before, after)
            for before, after in zip(buffers, single.buffers(), strict=True)
        )
        single.restore_buffers(buffers)
        if changed:
            return "training changes the model's buffers (running statistics)"
        stacked.set_hyperparameters(self.initial_values())
        stacked.weights.copy_(single.weights.expand_as(stacked.weights))
        batch = self._stack(self._minibatches(0)).join(0)
        try:
            found = self._derivatives(stacked, batch)
        except (RuntimeError, NotImplementedError, TypeError, ValueError) as error:
            return f"torch.func.vmap cannot take the model: {str(error).splitlines()[0]}"
        if not torch.allclose(found, torch.stack(expected, dim=1), rtol=1e-3, atol=1e-5):
            return (
                "the model gives other derivatives under torch.func.vmap (does it hold weights"
                " by other means than as attributes of its modules?)"
            )
        return None

    def _derivatives(self, objective: Objective, batch: Batch) -> Tensor:
        """∇_w L and its derivative along a constant direction, shape (2, ..., P)."""
        out = torch.zeros_like(objective.state[:1].expand(2, *objective.weights.shape))
        objective.begin_products()
        objective.inner_gradient(batch, out[0])
        objective.subtract_product(batch, torch.ones_like(objective.weights), out[1])
        objective.end_products()
        return out

    def _minibatches(self, draw: int) -> list[Minibatches]:
        return [
            Minibatches(
                tuner.train_examples, self._training.batch_size, (self._seed, draw, replica)
            )
            for tuner, replica in zip(self._tuners, self._replicas, strict=True)
        ]

    def _stack(self, minibatches: Sequence[Minibatches]) -> StackedMinibatches:
        return StackedMinibatches(minibatches, self._tuners[0].train_examples)

    def _own_randomness(self) -> AbstractContextManager[None]:
        return torch.random.fork_rng([self._device] if self._device.type == "cuda" else [])


@dataclass
class Figures:
    """Of an Evaluation what one replica adds to it, as far as it is known."""

    training_loss: float
    metrics: dict[str, float]
    diagnostics: dict[str, float]
    model: dict[str, Tensor]
    validation_loss: float = math.nan
    hypergradient: dict[str, Tensor] = field(default_factory=dict)
    backward_steps: int = 0
