"""Packs the state of the outer loop, with the direction of the last hypergradient."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor

from drmad_workers.errors import EngineError
from drmad_workers.hyperparameters.base import BoundHyperparameter
from drmad_workers.hyperparameters.warm_start import TunedElsewhere, warm_values
from drmad_workers.meta.state import MetaState
from drmad_workers.online.state import TrainingState
from drmad_workers.ray_actor.messages import PackedState, PackedTraining

_PREVIOUS = "previous_hypergradient"


def pack(state: MetaState, hypergradient: Mapping[str, Tensor] | None = None) -> PackedState:
    """Packs a state, and the direction of the hypergradient that led to it.

    The next meta-iteration compares its own direction with it; half precision suffices for that.
    """
    tensors = {name: tensor.contiguous() for name, tensor in state.tensors().items()}
    if hypergradient:
        largest = float(flat(hypergradient).abs().max()) or 1.0
        for name, tensor in hypergradient.items():
            tensors[f"{_PREVIOUS}/{name}"] = (tensor / largest).half().contiguous()
    return PackedState(save(tensors), state.scalars())


def unpack(packed: PackedState) -> MetaState:
    """The state, whose tensors the message must have: see state_files."""
    return MetaState.restore(load(_content(packed)), packed.scalars)


def warm_state(
    bound: Mapping[str, BoundHyperparameter],
    tensors: bytes,
    infos: Mapping[str, Mapping[str, Any]],
    schedules: Sequence[str],
) -> tuple[PackedState, list[str]]:
    """The first state of a job that starts from what another has tuned, and what was adapted.

    Args:
        tensors: those of the state of the other job.
        infos: HyperparameterInfo of the values to take, by name.
        schedules: the names that have an entry for each step in both jobs.
    """
    kept = load(tensors)
    values = {name: kept[f"hyperparameters/{name}"] for name in infos}
    first, adapted = warm_values(bound, TunedElsewhere(values, infos, schedules))
    return pack(MetaState(first)), adapted


def pack_training(state: TrainingState) -> PackedTraining:
    tensors = {name: tensor.cpu().contiguous() for name, tensor in state.tensors().items()}
    return PackedTraining(save(tensors), state.scalars())


def unpack_training(packed: PackedTraining) -> TrainingState:
    return TrainingState.restore(load(_content(packed)), packed.scalars)


def cosine_to_previous(packed: PackedState, hypergradient: Mapping[str, Tensor]) -> float | None:
    """The cosine to the hypergradient that led to the packed state.

    It is None in the first meta-iteration, and if one of the two hypergradients is zero.
    """
    kept = load(_content(packed))
    before = {
        name: kept[f"{_PREVIOUS}/{name}"].float()
        for name in hypergradient
        if f"{_PREVIOUS}/{name}" in kept
    }
    if before.keys() != hypergradient.keys():
        return None
    one, other = flat(before).double(), flat(hypergradient).double()
    lengths = float(one.norm() * other.norm())
    return float(one @ other) / lengths if lengths > 0.0 else None


def _content(packed: PackedState | PackedTraining) -> bytes:
    if not isinstance(packed.tensors, bytes):
        raise EngineError(f"the state is an artifact, which must be read first: {packed.tensors}")
    return packed.tensors


def flat(tensors: Mapping[str, Tensor]) -> Tensor:
    """All tensors as one vector, in the order of their names."""
    return torch.cat([tensors[name].flatten() for name in sorted(tensors)])
