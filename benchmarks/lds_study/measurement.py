"""What is measured in a cell: retrainings, the scores of every method, and what they cost."""

import time
from collections.abc import Callable
from functools import partial
from typing import Any

from experiments.gradient_scores import Losses, influence, tracin
from torch import Tensor

from drmad_workers import MetaConfig, Replay, Shortcut, Stored, Tuner
from drmad_workers.hypergradients import Method
from drmad_workers.hypergradients.agreement import draw_agreement
from drmad_workers.hypergradients.automatic.auto import Auto
from drmad_workers.hypergradients.automatic.choice import Choice, method_of
from drmad_workers.hypergradients.automatic.plan import DRAWS
from drmad_workers.hypergradients.backward_pass import BackwardPass
from drmad_workers.hypergradients.shortcut import has_convolutions
from drmad_workers.meta.state import initial_state
from drmad_workers.meta.update import bounds_of, outer_loop
from drmad_workers.validation.changes import left_out_rows, predicted_by_scores
from drmad_workers.validation.report import lds_of
from drmad_workers.validation.yardstick import (
    FIRST_DRAW,
    Differentiated,
    ValidationSettings,
    Yardstick,
)
from lds_study.cells import STEPS, Cell
from lds_study.plain_run import PlainRun, plain_run

REPEATS = 2
OTHER_DRAWS = 4
DAMPINGS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)


def methods_of(cell: Cell) -> dict[str, Method]:
    methods: dict[str, Method] = {
        "exact": Replay(),
        "shortcut": Shortcut(),
        **{f"shortcut T/{part}": Shortcut(horizon=STEPS // part) for part in (2, 4, 10)},
    }
    if has_convolutions(cell.problem().model):
        methods["shortcut, one minibatch in six"] = Shortcut(minibatch_subsampling=6)
    return methods


def measure(cell: Cell, seed: int, changes: int) -> dict[str, Any]:
    """The figures of a cell and a seed, as a line of the results has them."""
    tuner = Tuner(cell.problem(), cell.kinds(), cell.training(), Replay(), seed=seed)
    yardstick = Yardstick(tuner, ValidationSettings(changes=changes, draws=2, seed=seed))
    problem = cell.problem()
    losses = Losses(problem.model, problem.train, problem.valid, weight=0.5)
    plain = min(
        (plain_run(cell, seed, FIRST_DRAW) for _ in range(REPEATS)), key=lambda r: r.seconds
    )
    scores: dict[str, tuple[Tensor, float]] = {}
    for name, method in methods_of(cell).items():
        scores[name] = _scores(tuner, method, FIRST_DRAW, lambda: plain_run(cell, seed, FIRST_DRAW))
    chosen = _chosen_by_auto(cell, seed)
    by_auto = next(n for n, each in methods_of(cell).items() if _same(each, chosen))
    scores["auto"] = scores[by_auto]
    others = [_scores(tuner, Replay(), FIRST_DRAW + 1 + draw)[0] for draw in range(OTHER_DRAWS)]
    exact, times = scores["exact"]
    scores["exact, of another draw"] = (others[0], times)
    mean = sum(others[1:], others[0]) / OTHER_DRAWS
    scores["exact, mean of four other draws"] = (mean, OTHER_DRAWS * times)
    found, seconds = _timed(lambda: tracin(losses, plain.checkpoints))
    scores["TracIn"] = (found, 1.0 + seconds / plain.seconds)
    for damping in DAMPINGS:
        found, seconds = _timed(partial(influence, losses, plain.end, damping))
        cost = 1.0 + seconds / plain.seconds
        scores[f"influence functions, damping {damping:g}"] = (found, cost)
    agreed = draw_agreement([{"": exact}, *({"": other} for other in others)])
    retrainings = yardstick.retrainings[: 1 + 3 * changes]
    known = Differentiated({}, 0.0, 0.0, {"sample_weight": 1.0}, [], {})
    after = [yardstick.retrain(known, retraining) for retraining in retrainings]
    rows = exact.numel()
    judged = {}
    for name, (found, times) in scores.items():
        predictions = [
            predicted_by_scores(left_out_rows(each.change, rows, seed), found)
            for each in retrainings
            if each.change is not None
        ]
        known = Differentiated({}, 0.0, 0.0, {}, predictions, {})
        by_size = yardstick.correlations(known, after[1:])
        mean_lds = lds_of(by_size, "sample_weight")
        judged[name] = {
            "lds": mean_lds.value,
            "sizes": {str(each.size): each.correlation.value for each in by_size},
            "times_plain": times,
        }
    return {
        "cell": cell.name,
        "seed": seed,
        "changes": changes,
        "calm": cell.calm,
        "validation_loss": after[0],
        "agreement": agreed.cosine,
        "auto": by_auto,
        "plain_seconds": plain.seconds,
        "methods": judged,
    }


def _scores(
    tuner: Tuner, method: Method, draw: int, plainly: Callable[[], PlainRun] | None = None
) -> tuple[Tensor, float]:
    """What each example adds to the validation loss, by a method, and its cost.

    The cost is the least of REPEATS ratios of its CPU seconds to those of a plain run just before
    it: on a machine that others use too, seconds of different minutes do not compare.
    """
    times, found = [0.0], None
    for _ in range(REPEATS if plainly else 1):
        plain = plainly() if plainly else None
        started = time.process_time()
        (found,), _ = tuner.compare(tuner.initial_values(), [method], draw)
        if plain is not None:
            times.append((time.process_time() - started) / plain.seconds)
    if not isinstance(found, BackwardPass):
        assert found is not None
        raise found
    # All weights are one half: the derivative by σ times σ is that by λ over 1 - σ.
    return 2.0 * found.hypergradient["sample_weight"], min(times[1:], default=0.0)


def _chosen_by_auto(cell: Cell, seed: int) -> Method:
    """What `auto` chooses in the first meta-iterations of a job of 20, at the initial weights."""
    tuner = Tuner(cell.problem(), cell.kinds(), cell.training(), Auto(), seed=seed)
    state = initial_state(tuner.hyperparameters)
    config = MetaConfig("adam", 0.3, 20)
    outer = outer_loop(state, config, bounds_of(tuner.hyperparameters))
    choice: Choice | None = None
    for iteration in range(2 * DRAWS):
        found = tuner.evaluate(state.hyperparameters, iteration, choice=choice, outer=outer)
        choice = found.choice
        if choice is not None and choice.trial is None:
            break
    assert choice is not None
    return method_of(choice.method)


def _same(method: Method, chosen: Method) -> bool:
    if isinstance(method, Shortcut) and isinstance(chosen, Shortcut):
        return (method.horizon, method.minibatch_subsampling) == (
            chosen.horizon,
            chosen.minibatch_subsampling,
        )
    return isinstance(method, Replay) and isinstance(chosen, Replay | Stored)


def _timed(work: Callable[[], Tensor]) -> tuple[Tensor, float]:
    started = time.process_time()
    found = work()
    return found, time.process_time() - started
