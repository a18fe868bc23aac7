"""Finds what a loss changes that it must not: data, hyperparameters, weights and modules."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from drmad_workers.data.items import as_bytes
from drmad_workers.errors import ProblemError
from drmad_workers.objective.checks.repeatability import LossName, described_loss
from drmad_workers.objective.objective import Objective
from drmad_workers.objective.parameters.flat_parameters import require_trained
from drmad_workers.objective.parameters.held_values import is_dense
from drmad_workers.problem import Batch


class Unchanged:
    """Dense tensors by name, with their values and version counters at one moment."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self.tensors = {name: tensor for name, tensor in tensors.items() if is_dense(tensor)}
        self._versions = {name: tensor._version for name, tensor in self.tensors.items()}
        self._values = {name: tensor.detach().clone() for name, tensor in self.tensors.items()}

    def changed(self) -> str | None:
        """The name of the first tensor that was written to since; restores all values."""
        found = None
        with torch.no_grad():
            for name, tensor in self.tensors.items():
                same = torch.equal(as_bytes(tensor), as_bytes(self._values[name]))
                if found is None and not (same and tensor._version == self._versions[name]):
                    found = name
                if not same:
                    tensor.copy_(self._values[name])
        return found


@contextmanager
def no_side_effects(objective: Objective, batch: Batch, name: LossName) -> Iterator[None]:
    """Raises ProblemError if the loss, which is computed inside on the batch, changes anything."""
    model = objective.parameters.model
    what, field = described_loss(objective, name)
    read = Unchanged(
        batch.tensors()
        | {f"hyperparameters[{n!r}]": value for n, value in objective.values.arguments.items()}
    )
    weights = Unchanged(trained(model))
    parameters, addresses = dict(model.named_parameters()), addresses_of(model)
    failure = None
    try:
        yield
    except RuntimeError as error:  # writing into a tensor may prevent its backward pass
        failure = error
    if (written := read.changed()) is not None:
        raise ProblemError(
            f"{what} must not write into what it reads, and {written} was written to, by the loss "
            "or by the model's forward: replace operations in place (x += y, x.clamp_()) by new "
            "tensors (x = x + y, x = x.clamp())",
            field,
        ) from failure
    require_same_parameters(model, parameters, what)
    require_trained(weights.tensors, what)
    overwritten = weights.changed()
    moved = [n for n, address in addresses_of(model).items() if addresses[n] != address]
    if overwritten is not None or moved:
        raise ProblemError(
            f"{what} must not write into the model's parameters, and {overwritten or moved[0]!r} "
            "was written to (by an assignment to `.data`, a norm that is bounded in place, a "
            "moving average, or flatten_parameters() in the forward): compute the changed value "
            "in the forward as a new tensor, by torch.nn.utils.parametrize for example, and keep "
            "moving averages in buffers",
            "model",
        ) from failure
    if failure is not None:
        raise failure


def trained(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that are trained; others may follow them, as those of a teacher do."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def addresses_of(model: nn.Module) -> dict[str, int]:
    return {name: parameter.data_ptr() for name, parameter in trained(model).items()}


def require_same_parameters(
    model: nn.Module, before: Mapping[str, nn.Parameter], what: str
) -> None:
    """Raises ProblemError unless the model holds the same parameter objects as before."""
    after = dict(model.named_parameters())
    if new := sorted(after.keys() - before.keys()):
        raise ProblemError(
            f"the model must have all its parameters when build() returns, and {what} registered "
            f"{new[0]!r}: register it in __init__, or call the model once on a batch in build()",
            "model",
        )
    replaced = [name for name in before if after.get(name) is not before[name]]
    if replaced:
        raise ProblemError(
            f"{what} must leave the model's parameters in their place, and {replaced[0]!r} was "
            "replaced: compute the new value in the forward as a plain tensor, which is not "
            "assigned to the attribute of the parameter",
            "model",
        )


def registers_buffers(model: nn.Module, loss: Callable[[], object]) -> bool:
    """Whether the model registers buffers in its first loss, and keeps their values.

    The values of the other buffers are restored.

    Raises:
        ProblemError: a second loss changes such a buffer, so that its first value is unknown.
    """
    before = dict(model.named_buffers())
    given = Unchanged(before)
    loss()
    new = {name: buffer for name, buffer in model.named_buffers() if name not in before}
    if new:
        values = Unchanged(new)
        loss()
        after = dict(model.named_buffers())
        replaced = (name for name, buffer in new.items() if after.get(name) is not buffer)
        if (name := values.changed() or next(replaced, None)) is not None:
            raise ProblemError(
                f"the model must have all its buffers when build() returns, and {name!r} is "
                "registered in the first forward pass and changed in the next: register it in "
                "__init__ with the value that it starts from",
                "model",
            )
    given.changed()
    return bool(new)
