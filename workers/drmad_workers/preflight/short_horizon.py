"""The least window for the rates of an online job: hypergradients over several lengths compared.

[Wu2018] Understanding short-horizon bias in stochastic meta-optimization, 1803.02021: the gradient
of a rate over a few steps may point where training is worse in the long run.
"""

from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor

from drmad_client.spec import defaults
from drmad_workers.errors import HypergradientError, TrainingDiverged
from drmad_workers.evaluation import repeated_on_restart
from drmad_workers.hyperparameters.rates import BoundRate
from drmad_workers.meta.config import MetaConfig
from drmad_workers.online.run import OnlineRun
from drmad_workers.replica import Replica

MULTIPLES = (1, 2, 4, 8, 16)
"""The compared lengths, in windows."""
MOST_STEPS = 400
"""Bounds the longest of them."""


def lengths_of(window: int, steps: int) -> list[int]:
    """The compared lengths: the run has a whole number of each, and at least two."""
    lengths = [each * window for each in MULTIPLES]
    return [n for n in lengths if steps % n == 0 and 2 * n <= steps and n <= MOST_STEPS]


def short_horizon(replica: Replica, meta: MetaConfig) -> list[str]:
    """What preflight says of each tuned rate of an online run: a sentence each.

    From the state after as many steps as the longest window has, every length is differentiated
    once at the initial λ. A length will do if its hypergradient by the rate has a cosine of at
    least `defaults.Fidelity.cosine` to that of the longest one, and so have all longer ones.
    """
    rates = [name for name, b in replica.hyperparameters.items() if isinstance(b, BoundRate)]
    if not rates or meta.window >= replica.training.steps:
        return []
    lengths = lengths_of(meta.window, replica.training.steps)
    if len(lengths) < 2:
        reason = f"no longer window of at most {MOST_STEPS} steps divides the run"
        return [
            _told(name, meta.window, f"it was not measured, because {reason}") for name in rates
        ]
    gradients: dict[int, Mapping[str, Tensor]] = {}
    try:
        for length in lengths:
            work = partial(_gradient, replica, meta, length, lengths[-1])
            gradients[length] = repeated_on_restart(work)
    except (TrainingDiverged, HypergradientError) as error:
        return [_told(name, meta.window, f"it was not measured: {error}") for name in rates]
    longest = gradients[lengths[-1]]
    return [
        _told(
            name,
            meta.window,
            _verdict({n: _cosine(g, longest, name) for n, g in gradients.items()}),
        )
        for name in rates
    ]


def _gradient(replica: Replica, meta: MetaConfig, length: int, start: int) -> Mapping[str, Tensor]:
    """The hypergradient of one window of `length` steps that follows `start` steps."""
    values = replica.initial_values()
    run = OnlineRun(replica, replica.method, start)
    with run.open():
        run.train(values)
        state = run.state()
    run = OnlineRun(replica, replica.method, length, validation_batch=meta.validation_batch)
    with run.open(state):
        return run.advance(values, verifies=True).hypergradient


def _cosine(one: Mapping[str, Tensor], other: Mapping[str, Tensor], name: str) -> float:
    a, b = one[name].flatten().double(), other[name].flatten().double()
    lengths = float(a.norm() * b.norm())
    return float(torch.dot(a, b)) / lengths if lengths > 0.0 else 0.0


def _verdict(cosines: Mapping[int, float]) -> str:
    """What the cosines to the longest length say, by length; the shortest is the window."""
    window, longest = min(cosines), max(cosines)
    enough = longest
    for length in sorted(cosines, reverse=True):
        if cosines[length] < defaults.Fidelity.cosine:
            break
        enough = length
    measured = (
        f"its hypergradient over {window} steps has a cosine of {cosines[window]:.2f} to that over "
        f"{longest}"
    )
    if enough == window:
        return measured
    return f"{measured}, so that the window is too short for it: take window: {enough} or longer"


def _told(name: str, window: int, verdict: str) -> str:
    return (
        f"{name} is tuned by what {window} steps gain, where a lower rate may look better than it "
        f"is over the whole run (short-horizon bias, 1803.02021); {verdict}"
    )
