"""The figure of the best meta-iteration is one that retraining in plain PyTorch gives again."""

import numpy as np
import pytest

from tests.workers.meta.held_figures import CASES, retrained, tuned


def is_inside(name: str, seed: int, count: int) -> bool:
    """Whether the mean of so many plain retrainings lies in the interval that was reported."""
    case = CASES[name]
    result = tuned(case, seed)
    assert result.confirmation is not None
    assert result.state is not None
    draws, runs = result.confirmation.draws, result.state.runs
    assert draws <= 0.1 * (runs + draws)
    found = result.confirmation.best.figures["validation_loss"]
    losses = retrained(case, seed, result.best, count)
    mean = float(np.mean(losses))
    lowest = min(evaluation.validation_loss for evaluation in result.evaluations)
    print(
        f"{name}, seed {seed}: {found.mean:.4f} ({found.low:.4f} to {found.high:.4f}), retrained "
        f"{mean:.4f}, deviation {np.std(losses, ddof=1):.4f}, lowest of the job {lowest:.4f}"
    )
    assert found.low is not None
    assert found.high is not None
    return found.low <= mean <= found.high


@pytest.mark.full
@pytest.mark.parametrize("name", CASES)
def test_retraining_gives_the_reported_figure_again(name: str) -> None:
    """The mean of 20 retrainings lies in the interval for at least 18 of 20 seeds."""
    assert sum(is_inside(name, seed, 20) for seed in range(20)) >= 18


def test_retraining_gives_the_reported_figure_again_in_small() -> None:
    """The first seed of the cheapest problem."""
    assert is_inside("sample weights of digits, SGD", 0, 10)
