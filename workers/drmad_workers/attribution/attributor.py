"""The influence of every training example on every query, from backward passes of whole runs.

[Koh2017] Understanding black-box predictions via influence functions, 1703.04730.
[Ilyas2025] MAGIC: near-optimal data attribution for deep learning, 2504.16430.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from drmad_workers.attribution.queries import Query, queries_of
from drmad_workers.attribution.query_sums import QuerySums
from drmad_workers.data.shards import Shards
from drmad_workers.errors import ProblemError, TrainingDiverged
from drmad_workers.evaluation import differentiated_run, repeated_on_restart
from drmad_workers.hypergradients import Replay, Shortcut, Stored
from drmad_workers.hypergradients.automatic.auto import Auto
from drmad_workers.hypergradients.method import Adjoint, Method
from drmad_workers.hyperparameters.example_weight import NAME, ExampleWeight
from drmad_workers.objective.autograd.graph_memory import graph_bytes
from drmad_workers.objective.parameters.initial_weights import initialize
from drmad_workers.objective.products.of_queries import ProductOfQueries
from drmad_workers.objective.products.product import PRODUCTS
from drmad_workers.problem import Problem
from drmad_workers.training.config import TrainingConfig
from drmad_workers.training.progress import Monitor, OnProgress
from drmad_workers.training.run import TrainingRun
from drmad_workers.tuning import Tuner

PASS_BYTES = 2**30
"""Bounds the memory of the adjoints of one backward pass (1 GiB); more queries take several."""
BLOCK_BYTES = 2**26
"""Bounds the memory of the graphs of the products that are taken at once (64 MiB)."""


@dataclass(frozen=True)
class DrawScores:
    """The scores of one draw of weights and minibatches.

    Attributes:
        values: the value of every query at w_T, shape (Q,), float64.
        influence: -∂(value of the query)/∂u_i at u = 1, shape (Q, N), on the CPU.
        cost: in plain training runs, by counting gradients and products (see Method.cost), where
            the products of several queries count as those of each.
        passes: the number of training runs with a backward pass.
    """

    values: Tensor
    influence: Tensor
    cost: float
    passes: int


class Attributor:
    """Attributes the queries of one problem to its training examples.

    The influence of example i on query q is the change of q to first order when example i is left
    out of the training (u_i = 0): positive where the example lowers the value, so that it helps.

    Attributes:
        tuner: the problem with a weight of one for every training example.
        queries: the queries.
    """

    def __init__(
        self,
        problem: Problem,
        training: TrainingConfig,
        method: Method | None = None,
        queries: Sequence[str] | Sequence[Query] = ("valid",),
        seed: int = 0,
        device: str | torch.device = "cpu",
        dtype: torch.dtype | None = None,
        shards: Shards | None = None,
        pass_bytes: int = PASS_BYTES,
        most_bytes: int | None = None,
    ) -> None:
        """
        Args:
            problem, training, seed, device, dtype, shards: see Tuner.
            method: Replay (for None and for Auto), Stored or Shortcut.
            queries: as a job states them, or as they are.
            pass_bytes: bounds the memory of the adjoints of one backward pass.
            most_bytes: bounds the scores, of four bytes each; None for no bound.
        Raises:
            ProblemError: the problem or a query cannot be attributed as stated.
        """
        if method is None or isinstance(method, Auto):
            method = Replay()
        if not isinstance(method, Replay | Stored | Shortcut):
            raise ProblemError(
                "an attribution takes the methods auto, replay, stored or shortcut, got "
                f"{method.name}: auto takes replay, which is exact",
                "hypergradient.method",
            )
        self.tuner = Tuner(
            problem, [ExampleWeight()], training, method, seed, 0, device, dtype, shards
        )
        replica = self.tuner.replica
        stated = [each for each in queries if isinstance(each, Query)]
        self.queries = stated or queries_of([q for q in queries if isinstance(q, str)], replica)
        if not self.queries:
            raise ProblemError("queries must name at least one query", "attribution.queries")
        size = 4 * len(self.queries) * self.rows
        if most_bytes is not None and size > most_bytes:
            raise ProblemError(
                f"the scores of {len(self.queries):,} queries and {self.rows:,} rows must take at "
                f"most {most_bytes:,} bytes, they take {size:,}: ask for fewer queries, or use "
                "drmad attribute on your machine",
                "attribution.queries",
            )
        self._pass_bytes = pass_bytes

    @property
    def rows(self) -> int:
        """N, the number of training examples."""
        return self.tuner.hyperparameters[NAME].shape[0]

    def scores(
        self,
        draw: int = 0,
        should_stop: Callable[[], bool] | None = None,
        on_progress: OnProgress | None = None,
    ) -> DrawScores:
        """The influence of every example on every query, for one draw.

        Raises:
            TrainingDiverged, HypergradientError, Stopped, ProblemError.
        """
        monitor = Monitor(should_stop, on_progress)
        at_once = self._queries_at_once
        starts = range(0, len(self.queries), at_once)
        parts = [
            repeated_on_restart(
                partial(self._pass, self.queries[start : start + at_once], draw, monitor)
            )
            for start in starts
        ]
        training, method = self.tuner.replica.training, self.tuner.replica.method
        once = method.cost(training)
        products = 2.0 * method.backward_total(training) / training.steps
        return DrawScores(
            torch.cat([values for values, _ in parts]),
            torch.cat([influence for _, influence in parts]),
            once * len(parts) + products * (len(self.queries) - len(parts)),
            len(parts),
        )

    def values_without(
        self,
        rows: Tensor | None,
        draw: int = 0,
        should_stop: Callable[[], bool] | None = None,
        on_progress: OnProgress | None = None,
    ) -> Tensor | None:
        """The value of every query after training without the examples at `rows`, shape (Q,).

        None if the training diverged. Raises Stopped.
        """
        weights = self.tuner.initial_values()
        if rows is not None:
            weights[NAME][rows] = 0.0
        monitor = Monitor(should_stop, on_progress)
        replica = self.tuner.replica

        def trained() -> Tensor:
            with replica.at_work():
                try:
                    differentiated_run([replica], weights, draw, monitor).forward([])
                    return self._values(monitor)
                finally:
                    replica.objective.parameters.restore_given()

        try:
            return repeated_on_restart(trained)
        except TrainingDiverged:
            return None

    def close(self) -> None:
        """Ends the processes that read data."""
        self.tuner.close()

    @property
    def _queries_at_once(self) -> int:
        """Queries of one pass: the adjoint, the cotangent and the derivatives of each are held."""
        parameters = self.tuner.objective.parameters
        copies = 2 * len(parameters.state) + 2
        each = copies * parameters.state[0].nbytes + self.rows * parameters.weights.element_size()
        return max(1, self._pass_bytes // each)

    def _pass(self, queries: Sequence[Query], draw: int, monitor: Monitor) -> tuple[Tensor, Tensor]:
        """The values and the influence of a few queries, by one training run."""
        replica = self.tuner.replica
        objective, method = replica.objective, replica.method
        with replica.at_work():
            given = objective.sums
            try:
                own = replica.training_run(self.tuner.initial_values(), draw, monitor)
                objective.sums = sums = QuerySums(objective.values, len(queries))
                run = own.run
                objective.inner.traced.begin()
                initialize(objective, own.weights_seed)
                recorder = method.recorder(run)
                run.forward(recorder)
                run.expect(method.order(run, recorder))
                objective.product = PRODUCTS[method.hvp]
                objective.begin_products()
                adjoint = Adjoint(run, False, len(queries), self._products(run))
                values = []
                for number, query in enumerate(queries):
                    sums.query = number
                    rows = replica.valid_examples
                    values.append(
                        objective.outer_gradient(
                            rows if query.rows is None else rows.part(query.rows),
                            adjoint.weights[number],
                            adjoint.carried[number],
                            monitor.poll,
                            query.of(objective),
                        )
                    )
                monitor.begin("backward", method.backward_total(replica.training))
                method.backward(run, recorder, adjoint)
                derivative = objective.hypergradient()[NAME]
                monitor.end()
            finally:
                objective.end_products()
                objective.sums = given
                objective.parameters.restore_given()
        losses = torch.stack([value.detach().double().cpu() for value in values])
        return losses, derivative.neg()

    def _products(self, run: TrainingRun) -> ProductOfQueries:
        batch = run.batch(0)
        graph = graph_bytes(run.objective.inner, lambda: batch)
        return ProductOfQueries((graph or BLOCK_BYTES / 4) / len(batch.index), BLOCK_BYTES)

    def _values(self, monitor: Monitor) -> Tensor:
        """The value of every query at the present weights, shape (Q,), float64, on the CPU."""
        objective = self.tuner.objective
        parameters, examples = objective.parameters, self.tuner.replica.valid_examples
        parameters.eval()
        found = []
        for query in self.queries:
            rows = examples if query.rows is None else examples.part(query.rows)
            with torch.set_grad_enabled(objective.losses.outer_needs_grad):
                parts = [
                    part.detach().double() * share
                    for part, share in objective.held_out.over(rows, query.of(objective))
                ]
            monitor.poll()
            found.append(torch.stack(parts).sum())
        parameters.train()
        return torch.stack(found).cpu()
