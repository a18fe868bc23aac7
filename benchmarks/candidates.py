"""What averaging, smoothing and a bounded adjoint gain over the methods that `auto` chooses from.

    python benchmarks/candidates.py [--only TEXT]

For each run, GIVEN draws of initial weights and minibatches are differentiated exactly and by
shortcuts. A candidate is one of these hypergradients, their mean over two or four draws, or the
mean of exact ones of one draw at SMOOTHED hyperparameters near the present ones. Each takes an
outer step of 0.3 along its signs, and JUDGING other draws are trained before and after it. A row
has the cost in training runs, the mean cosine to the exact hypergradients of the judging draws, the
gain in validation loss beside that of one exact hypergradient, and that gain per training run.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean

sys.path.insert(0, str(Path(__file__).parents[1]))  # of the experiments
import torch

from drmad_workers import Shortcut, Stored, Tuner
from drmad_workers.hypergradients import Method
from drmad_workers.hypergradients.agreement import agreement
from drmad_workers.hypergradients.backward_pass import BackwardPass
from usefulness_study.runs import Values, loss_of, moved, runs

GIVEN, JUDGING = 4, 2
SMOOTHED, RADIUS = 4, 0.3
"""The points of a smoothed hypergradient, and the standard deviation of their distance, in λ."""
EXACT = 3.0
"""Training runs of an exact hypergradient, by `stored`."""


def measured(name: str, tuner: Tuner, values: Values) -> None:
    steps = tuner.replica.training.steps
    methods: Mapping[str, tuple[Method, float]] = {
        "exact": (Stored(), EXACT),
        "T/4": (Shortcut(horizon=steps // 4), 1.5),
        "T/10": (Shortcut(horizon=steps // 10), 1.2),
        "shortcut": (Shortcut(), 3.0),
        "shortcut, bounded adjoint": (Shortcut(contraction=True), 3.0),
    }
    own: dict[str, list[Values]] = {label: [] for label in methods}
    for draw in range(GIVEN):
        passes, _ = tuner.compare(values, [method for method, _ in methods.values()], draw)
        for label, each in zip(methods, passes, strict=True):
            if isinstance(each, BackwardPass):
                own[label].append(dict(each.hypergradient))
    candidates = {label: (own[label], cost) for label, (_, cost) in methods.items()}
    for label in ("exact", "T/10"):
        cost = methods[label][1]
        for draws in (2, 4):
            starts = range(0, GIVEN, draws)
            means = [mean(own[label][start : start + draws]) for start in starts]
            candidates[f"{label}, mean of {draws} draws"] = means, draws * cost
    smooth = [smoothed(tuner, values, draw) for draw in range(2)]
    candidates[f"exact, smoothed over {SMOOTHED} points"] = smooth, SMOOTHED * EXACT
    judges = range(GIVEN, GIVEN + JUDGING)
    exact = {draw: differentiated(tuner, values, draw) for draw in judges}
    before = {draw: loss_of(tuner, values, draw) for draw in judges}
    gains, cosines = {}, {}
    for label, (hypergradients, _) in candidates.items():
        if not hypergradients:
            continue
        pairs = [(each, draw) for each in hypergradients for draw in judges]
        cosines[label] = fmean(agreement(each, exact[draw]).cosine for each, draw in pairs)
        gains[label] = fmean(
            before[draw] - loss_of(tuner, moved(values, each), draw) for each, draw in pairs
        )
    for label, (_, cost) in candidates.items():
        if label not in gains:
            print(f"| {name} | {label} | {cost:.1f} | diverged | – | – |", flush=True)
            continue
        gain = gains[label] / gains["exact"]
        row = f"{cost:.1f} | {cosines[label]:.2f} | {gain:.2f} | {gain * EXACT / cost:.2f}"
        print(f"| {name} | {label} | {row} |", flush=True)


def differentiated(tuner: Tuner, values: Values, draw: int) -> Values:
    """The exact hypergradient of a draw."""
    (found,), _ = tuner.compare(values, [Stored()], draw)
    assert isinstance(found, BackwardPass)
    return dict(found.hypergradient)


def smoothed(tuner: Tuner, values: Values, draw: int) -> Values:
    """The mean of exact hypergradients at hyperparameters about the given ones."""
    generator = torch.Generator().manual_seed(draw)
    near = [
        {
            name: value + RADIUS * torch.randn(value.shape, generator=generator)
            for name, value in values.items()
        }
        for _ in range(SMOOTHED)
    ]
    return mean([differentiated(tuner, point, draw) for point in near])


def mean(hypergradients: Sequence[Values]) -> Values:
    return {
        name: torch.stack([each[name] for each in hypergradients]).mean(0)
        for name in hypergradients[0]
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="the runs whose name contains this")
    only = parser.parse_args().only
    torch.set_num_threads(1)
    print("| run | hypergradient | training runs | cosine to others | gain | gain per run |")
    print("|---|---|---|---|---|---|")
    for name, tuner, values in runs(only):
        measured(name, tuner, values)


if __name__ == "__main__":
    main()
