"""Proof 5: the user's data, given weights, buffers and tensors are what they were."""

import hashlib
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from drmad_workers.data.columns import columns_of
from drmad_workers.objective.parameters.held_values import is_dense
from drmad_workers.objective.plain_objective import PlainObjective, restored
from drmad_workers.preflight.proofs.finding import Finding, line_of
from drmad_workers.problem import Batch, Problem
from drmad_workers.tuning import Tuner

SAMPLE_BYTES = 2**24
"""Bounds the part of a tensor whose digest is taken, in bytes (16 MiB)."""
BLOCKS = 16
"""A larger tensor is read in this many blocks at equal distances."""
ROWS = 500
"""Bounds the held-out rows that the losses are handed."""


class Belongings:
    """The user's tensors, with digests that are taken before anything runs."""

    def __init__(self, problem: Problem, tuner: Tuner) -> None:
        self._problem, self._tuner = problem, tuner
        self._state = self._read()
        self._others = [(name, tensor, digest(tensor)) for name, tensor in others(problem)]

    def changed(self) -> str | None:
        """The name of the first tensor that changed; None for none."""
        now = self._read()
        for name, tensor, before in self._others:
            if digest(tensor) != before:
                return name
        return next((name for name, each in self._state.items() if now.get(name) != each), None)

    def _read(self) -> dict[str, str]:
        """Digests of parameters and buffers; puts what was given in its place, attributes too."""
        self._tuner.objective.parameters.attach()
        self._tuner.objective.parameters.restore_given()
        model = self._problem.model
        found = [*model.named_parameters(), *model.named_buffers()]
        return {name: digest(tensor) for name, tensor in found}


def others(problem: Problem) -> Iterator[tuple[str, Tensor]]:
    """Tensors that are neither parameters nor buffers: data, attributes, hyperparameters."""
    for part in ("train", "valid", "test"):
        content = columns_of(getattr(problem, part))
        if content is not None:
            tensors = Batch(content, torch.empty(0)).tensors()
            yield from ((name.replace("batch.", f"{part} "), t) for name, t in tensors.items())
    for prefix, module in problem.model.named_modules():
        for name, value in module.__dict__.items():
            if torch.is_tensor(value):
                yield f"{prefix}.{name}".removeprefix("."), value
    for name, stated in problem.hyperparameters.items():
        yield f"hyperparameters.{name}", stated.init


def digest(tensor: Tensor) -> str:
    """A digest of a tensor, or of blocks of a large one; of a sparse one its shape alone."""
    if not is_dense(tensor):
        return f"{tensor.layout} {tuple(tensor.shape)}"
    flat = tensor.detach().reshape(-1)
    size = flat.numel() * flat.element_size()
    if size > SAMPLE_BYTES:
        each = SAMPLE_BYTES // BLOCKS // flat.element_size()
        starts = [(flat.numel() - each) * i // (BLOCKS - 1) for i in range(BLOCKS)]
        flat = torch.cat([flat[start : start + each] for start in starts])
    content = flat.cpu().contiguous().view(torch.uint8).numpy()
    return hashlib.sha256(content.tobytes()).hexdigest()


def unchanged(tuner: Tuner, problem: Problem, before: Belongings) -> Finding:
    """Hands a minibatch and held-out rows to the losses, and compares all with what they were."""
    name = before.changed()
    if name is not None:
        return Finding("failed", f"{name} is not what it was before training", name, COPY)
    written = written_rows(tuner, problem)
    if written is not None:
        what, where = written
        return Finding("failed", f"the loss wrote into the {what} that it was given", where, COPY)
    name = before.changed()
    if name is not None:
        return Finding("failed", f"{name} is not what it was before a loss", name, COPY)
    return Finding(
        "passed", "data, given weights, buffers and tensors of the model are what they were"
    )


COPY = (
    "compute new tensors instead of writing into those given: x = x + position instead of "
    "x += position, clamp() instead of clamp_(); register state that training changes as a buffer"
)


def written_rows(tuner: Tuner, problem: Problem) -> tuple[str, str] | None:
    """What a training or a held-out loss wrote into, and where; None if nothing."""
    objective = tuner.objective
    plain, parameters = PlainObjective(objective), objective.parameters
    objective.set_hyperparameters(tuner.initial_values())
    values = objective.values.by_name
    examples = tuner.valid_examples

    def held_out(batch: Batch) -> object:
        parameters.eval()
        return objective.losses.outer(batch)

    def in_training(batch: Batch) -> object:
        parameters.train()
        return plain.training_loss(values, batch)

    tries: list[tuple[str, Callable[[Batch], object], Batch]] = [
        ("training", in_training, tuner.replica.minibatches(0).join(0)),
        ("held-out", held_out, next(examples.chunks(min(ROWS, examples.rows)))),
    ]
    with restored(problem.model), torch.enable_grad():
        for what, loss, batch in tries:
            given = {name: digest(tensor) for name, tensor in batch.tensors().items()}
            loss(batch)
            for name, now in batch.tensors().items():
                if digest(now) != given[name]:
                    stated = problem.inner_loss or problem.loss
                    where = line_of(problem.model) or line_of(stated) or f"problem.{what}"
                    return name.replace("batch.", f"{what} "), where
    return None
