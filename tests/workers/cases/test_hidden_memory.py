"""State that training changes where the engine does not look: refused, and what lies beside it."""

from collections import deque
from collections.abc import Callable, Generator, Mapping
from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from drmad_workers import Batch, ProblemError, Replay, Tuner
from tests.workers.cases.small import TRAINING, H, each_loss, perceptron, problem_of


def distance(one: Tensor, other: Tensor, tuned: Mapping[str, Tensor]) -> Tensor:
    return (tuned["h"] * (one - other).square().mean(0)).sum()


def follow(teacher: nn.Module, model: nn.Module) -> None:
    with torch.no_grad():
        for kept, own in zip(teacher.parameters(), model.parameters(), strict=True):
            kept.lerp_(own, 0.3)


class Keeping(nn.Module):
    """Keeps a copy of its net outside of its modules, and follows it in every training pass."""

    def __init__(self, kept_in: Callable[[nn.Module], Any]) -> None:
        super().__init__()
        self.net = perceptron()
        self.kept = kept_in(deepcopy(self.net))

    def teacher(self) -> nn.Module:
        (found,) = self.kept.values() if isinstance(self.kept, dict) else self.kept
        assert isinstance(found, nn.Module)
        return found

    def forward(self, inputs: Tensor) -> Tensor:
        if self.training:
            follow(self.teacher(), self.net)
        outputs: Tensor = self.net(inputs)
        return outputs


def taught(forward: Any, tuned: Mapping[str, Tensor], batch: Batch) -> Tensor:
    outputs = forward(batch.inputs)
    losses = each_loss(outputs, batch.targets).mean()
    return losses + distance(outputs, forward.teacher()(batch.inputs), tuned)


def by_closure() -> Callable[..., Tensor]:
    """Keeps the model of the step before in a variable."""
    before: nn.Module | None = None

    def loss(forward: Any, tuned: Mapping[str, Tensor], batch: Batch) -> Tensor:
        nonlocal before
        outputs = forward(batch.inputs)
        other = outputs.detach() if before is None else before(batch.inputs)
        before = deepcopy(forward).requires_grad_(False)
        return each_loss(outputs, batch.targets).mean() + distance(outputs, other, tuned)

    return loss


def by_queue() -> Callable[..., Tensor]:
    """Keeps the last models in a queue."""
    models: deque[nn.Module] = deque(maxlen=2)

    def loss(forward: Any, tuned: Mapping[str, Tensor], batch: Batch) -> Tensor:
        outputs = forward(batch.inputs)
        models.append(deepcopy(forward).requires_grad_(False))
        return each_loss(outputs, batch.targets).mean() + distance(
            outputs, models[0](batch.inputs), tuned
        )

    return loss


def by_generator() -> Callable[..., Tensor]:
    """A generator averages the outputs' bias."""

    def averaged() -> Generator[Tensor, Tensor, None]:
        mean = torch.zeros((), dtype=torch.float64)
        while True:
            given = yield mean
            mean = 0.7 * mean + 0.3 * given.detach()

    average = averaged()
    next(average)

    def loss(forward: Any, tuned: Mapping[str, Tensor], batch: Batch) -> Tensor:
        outputs = forward(batch.inputs)
        mean = average.send(outputs.mean())
        return each_loss(outputs, batch.targets).mean() + distance(outputs, mean, tuned)

    return loss


@pytest.mark.parametrize(
    "kept_in",
    [lambda net: [net], lambda net: {"teacher": net}, lambda net: (net,), lambda net: deque([net])],
    ids=["list", "dict", "tuple", "deque"],
)
@pytest.mark.parametrize("initialize", ["reset", None])
def test_a_copy_of_a_module_that_a_container_hides_is_refused(
    kept_in: Callable[[nn.Module], Any], initialize: str | None
) -> None:
    stated = problem_of(Keeping(kept_in), taught, initialize=initialize)
    with pytest.raises(ProblemError, match=r"cop(y|ies) of the model (an|in) attributes? of it"):
        Tuner(stated, H, TRAINING, Replay())


def test_a_copy_that_the_held_out_loss_alone_reads_is_refused() -> None:
    def of_teacher(forward: Any, tuned: Mapping[str, Tensor], batch: Batch) -> Tensor:
        return each_loss(forward.teacher()(batch.inputs), batch.targets).mean()

    stated = problem_of(Keeping(lambda net: [net]), outer_loss=of_teacher)
    with pytest.raises(ProblemError, match=r"the outer loss must depend on earlier weights"):
        Tuner(stated, H, TRAINING, Replay())


@pytest.mark.parametrize("made", [by_closure, by_queue, by_generator])
def test_a_loss_that_remembers_earlier_passes_is_refused(
    made: Callable[[], Callable[..., Tensor]],
) -> None:
    with pytest.raises(ProblemError, match=r"must (be the same when|depend on earlier weights)"):
        Tuner(problem_of(perceptron(), made()), H, TRAINING, Replay())


def test_a_constant_copy_in_a_list_is_none_of_it() -> None:
    class Constant(Keeping):
        def forward(self, inputs: Tensor) -> Tensor:
            outputs: Tensor = self.net(inputs)
            return outputs

    Tuner(problem_of(Constant(lambda net: [net]), taught), H, TRAINING, Replay())
