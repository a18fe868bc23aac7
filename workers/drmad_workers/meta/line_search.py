"""The outer optimizer `auto`: Adam's direction, with a step length that retraining chooses.

A *trial* trains once more, without any derivative, with the initial weights and minibatches of the
meta-iteration (common random numbers), at other hyperparameters than its own. Whoever has the
lowest validation loss is where the next update starts. The draw of a meta-iteration is not the one
of the hypergradient that chose the update, so that an update that suits one draw alone shows.

1. The first trial compares three lengths of the first step with that of the start.
2. Later ones compare with the *anchor*, the winner of the trial before: in every `INTERVAL`-th
   meta-iteration, and after one whose loss is higher than the anchor's was by a tenth. Where the
   updates since then have not helped, they are taken back and the steps shrink.
3. Between them the rate follows the cosine of each hypergradient to the last step, which says at
   no cost whether the step was too short [Baydin2018].
4. In the second half of the job the steps shrink, as a constant one ends in its own noise.

[Baydin2018]: Online learning rate adaptation with hypergradient descent, 1703.04782.
"""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from drmad_workers.meta.state import MetaState

FIRST_FACTORS = (0.1, 1.0 / 3.0, 3.0)
"""The lengths of the first trial, in steps."""
INTERVAL = 4
"""Meta-iterations from one trial to the next."""
WORSE = 0.1
"""The share by which a loss must exceed that of the anchor for a trial at once."""
TAKEN_BACK = 0.4
"""The factor of the rate after updates that are taken back."""
GAIN = 0.4
"""The change of the logarithm of the rate by a cosine of one."""
SPAN = 10.0
"""The most by which the rate may exceed that of the start; it may fall to a tenth of 1/SPAN."""
CONSTANT, LEAST = 0.5, 0.1
"""The part of the meta-iterations before the steps shrink, and what the last one is shrunk to."""

_RATE, _LOSS, _FACTORS, _DUE = "line/rate", "line/loss", "line/factors", "line/due"
_BEFORE, _ANCHOR = "before", "anchor"


def rate_of(state: MetaState, start: float, iterations: int) -> float:
    """The length η of the next step in raw units; `start` is that of the first."""
    kept = state.optimizer.get(_RATE)
    rate = start if kept is None else float(kept)
    done = (state.iteration + 1) / iterations
    return rate * max(LEAST, min(1.0, 1.0 - (done - CONSTANT) / (1.0 - CONSTANT) * (1.0 - LEAST)))


def candidates(state: MetaState) -> list[dict[str, Tensor]]:
    """The λ that the meta-iteration tries beside its own; none in most meta-iterations."""
    if (factors := state.optimizer.get(_FACTORS)) is not None:
        return [_along(state, float(factor)) for factor in factors]
    return [_kept(state, _ANCHOR)] if _DUE in state.optimizer else []


def _kept(state: MetaState, slot: str) -> dict[str, Tensor]:
    return {name: state.optimizer[f"{slot}/{name}"] for name in state.hyperparameters}


def _along(state: MetaState, factor: float) -> dict[str, Tensor]:
    before = _kept(state, _BEFORE)
    return {
        n: before[n] + factor * (value - before[n]) for n, value in state.hyperparameters.items()
    }


def settled(
    state: MetaState,
    validation_loss: float,
    hypergradient: Mapping[str, Tensor],
    points: Sequence[Mapping[str, Tensor]],
    trials: Sequence[float],
    start: float,
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Where the next update starts, and the slots of the line search for it.

    Args:
        state: the state with which the meta-iteration trained.
        validation_loss: its validation loss.
        hypergradient: its hypergradient, by name.
        points: its `candidates` within their bounds, if they were tried.
        trials: their validation losses; those that are not finite lose.
        start: the rate of the first step.
    """
    own = dict(state.hyperparameters)
    if _RATE not in state.optimizer:
        slots = _slots(start, validation_loss, own, own)
        return own, slots | {_FACTORS: torch.tensor(FIRST_FACTORS, dtype=torch.float64)}
    kept = float(state.optimizer[_RATE])
    rate = kept * math.exp(-GAIN * _cosine(state, hypergradient))
    origin, anchor, loss = own, _kept(state, _ANCHOR), float(state.optimizer[_LOSS])
    if trials:
        tried = [each if math.isfinite(each) else math.inf for each in trials]
        lowest = min(range(len(tried)), key=tried.__getitem__)
        if tried[lowest] < validation_loss:
            origin = dict(points[lowest])
            factors = state.optimizer.get(_FACTORS)
            factor = TAKEN_BACK if factors is None else float(factors[lowest])
            rate = kept * (math.sqrt(factor) if factor > 1.0 else factor)
        anchor, loss = origin, min(tried[lowest], validation_loss)
    rate = min(max(rate, start / SPAN / 10.0), start * SPAN)
    slots = _slots(rate, loss, origin, anchor)
    is_worse = not trials and validation_loss > loss + WORSE * abs(loss)
    if is_worse or (state.iteration + 1) % INTERVAL == 0:
        slots[_DUE] = torch.ones(())
    return origin, slots


def _cosine(state: MetaState, hypergradient: Mapping[str, Tensor]) -> float:
    """The mean cosine of the hypergradient to the last step, over the tensors."""
    found = []
    for name, value in state.hyperparameters.items():
        step = (value - state.optimizer[f"{_BEFORE}/{name}"]).flatten().double()
        gradient = hypergradient[name].flatten().double()
        lengths = float(step.norm() * gradient.norm())
        found.append(float(step @ gradient) / lengths if lengths > 0.0 else 0.0)
    return math.fsum(found) / len(found)


def _slots(
    rate: float, loss: float, origin: Mapping[str, Tensor], anchor: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """The slots after an update from `origin`."""
    numbers = {_RATE: rate, _LOSS: loss}
    slots = {name: torch.tensor(each, dtype=torch.float64) for name, each in numbers.items()}
    # Copies, because a file of tensors holds no memory twice.
    slots |= {f"{_BEFORE}/{name}": value.clone() for name, value in origin.items()}
    return slots | {f"{_ANCHOR}/{name}": value.clone() for name, value in anchor.items()}


def after_rollback(state: MetaState, best: MetaState, start: float) -> dict[str, Tensor]:
    """The slots after a rollback of `state` to `best`, whose step is shorter."""
    kept = state.optimizer.get(_RATE)
    loss = best.optimizer.get(_LOSS)
    values = best.hyperparameters
    known = math.inf if loss is None else float(loss)
    return _slots(TAKEN_BACK * (start if kept is None else float(kept)), known, values, values)
