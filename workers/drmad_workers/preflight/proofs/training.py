"""Proof 2: the engine's training against torch.optim and `loss.backward()` on the user's module."""

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from drmad_workers.evaluation import repeated_on_restart
from drmad_workers.objective.parameters.initial_weights import initialize
from drmad_workers.objective.plain_objective import restored
from drmad_workers.preflight.proofs import random_states
from drmad_workers.preflight.proofs.finding import Finding
from drmad_workers.preflight.proofs.plain_training import Written, train
from drmad_workers.preflight.proofs.short_problem import ShortProblem
from drmad_workers.training.run import TrainingRun

SAFETY = 100.0
"""The difference that is allowed, in differences between two plain runs apart by rounding."""
SLACK = 1e3
"""The difference that is allowed besides, as a share of how far the weights moved, in units of the
precision."""


@dataclass
class WeightsPath:
    """Records the weights before every step and after the last, shape (P,) each."""

    weights: list[Tensor] = field(default_factory=list)
    next_step: int = 0

    def visit(self, step: int, run: TrainingRun) -> None:
        self.weights.append(run.objective.parameters.weights.clone())
        self.next_step = step + 1


def training(short: ShortProblem) -> Finding:
    """Compares the weights after every step."""
    raw = short.tuner.initial_values()
    model = short.plain.model

    def plain(shaken: bool) -> tuple[list[Tensor], Written | None]:
        path: list[Tensor] = []

        def note(_: int, parameters: list[Tensor]) -> None:
            path.append(torch.cat([p.detach().reshape(-1) for p in parameters]))

        return path, train(short, raw, note, shaken)[1]

    random_states.scatter(0)
    try:
        expected, written = plain(shaken=False)
        shaken, _ = plain(shaken=True)
    except AttributeError as error:
        return Finding(
            "failed",
            f"after initialize the model misses a parameter that the engine trains: {error}",
            "problem.initialize",
            IN_PLACE,
        )
    if written is not None:
        return Finding(
            "failed",
            f"the loss or its backward pass wrote into this parameter in step {written.step}, "
            "beside the optimizer",
            written.name,
            "compute the changed weight in forward and leave the parameter as it is "
            "(F.normalize(self.weight) instead of max_norm or .data), and step in no hook",
        )
    worst = difference(short, engine_weights(short, raw), expected, shaken)
    if isinstance(worst, Difference):
        return failure(short, model, worst)
    return Finding(
        "passed",
        f"{short.training.steps} steps by the engine and by torch.optim on your module lead to the "
        f"same weights in {short.precision}; they differ by at most {worst:.1e} of the way",
    )


IN_PLACE = (
    "let initialize write into the parameters that the model has (reset_parameters(), "
    "nn.init, copy_), and assign no new modules or parameters"
)


def engine_weights(short: ShortProblem, raw: dict[str, Tensor]) -> list[Tensor]:
    """w_0 .. w_T of a training run by the engine; the module is afterwards as it was."""

    def trained() -> list[Tensor]:
        run, seed = short.run(raw)
        path = WeightsPath()
        with restored(short.plain.model):
            run.objective.inner.traced.begin()
            initialize(run.objective, seed)
            run.forward(path)
        return path.weights

    random_states.scatter(1)
    return repeated_on_restart(trained)


@dataclass(frozen=True)
class Difference:
    """The first parameter that differs: its name, the step, |Δw|, and the way that it went."""

    name: str
    step: int
    apart: float
    travelled: float


def difference(
    short: ShortProblem, engine: list[Tensor], expected: list[Tensor], shaken: list[Tensor]
) -> Difference | float:
    """The first difference that rounding does not explain; else the largest as a share."""
    eps = torch.finfo(short.dtype).eps
    largest = 0.0
    for step, (ours, theirs, moved) in enumerate(zip(engine, expected, shaken, strict=True)):
        for slot in short.tuner.objective.parameters.slots:
            part = slice(slot.start, slot.stop)
            apart = norm(ours[part] - theirs[part])
            travelled = norm(theirs[part] - expected[0][part])
            allowed = SAFETY * norm(moved[part] - theirs[part])
            allowed += SLACK * eps * travelled + 10.0 * eps * norm(theirs[part])
            if not apart <= allowed:
                return Difference(slot.name, step, apart, travelled)
        whole = norm(theirs - expected[0])
        largest = max(largest, norm(ours - theirs) / whole if whole > 0.0 else 0.0)
    return largest


def failure(short: ShortProblem, model: nn.Module, found: Difference) -> Finding:
    apart, travelled = found.apart, found.travelled
    share = f", {apart / travelled:.1e} of the way that it went" if travelled > 0.0 else ""
    step = found.step
    when = "at the start" if step == 0 else f"after step {step} of {short.training.steps}"
    detail = f"the engine and torch.optim on your module differ by {apart:.1e}{share} {when}"
    parameter = model.get_parameter(found.name)
    if getattr(parameter, "_post_accumulate_grad_hooks", None):
        remedy = (
            "remove register_post_accumulate_grad_hook: the engine accumulates no gradients; scale "
            "or clip in the loss"
        )
    elif parameter._backward_hooks:
        detail += "; the parameter has a hook"
        remedy = (
            "remove the hook: the engine adds the gradients of penalties behind it, a plain loop "
            "before it; put the penalty into inner_loss, or change the loss instead of its gradient"
        )
    elif callable(short.tuner.objective.problem.initialize):
        remedy = IN_PLACE
    else:
        remedy = (
            "compute the loss from weights, hyperparameters and batch by torch alone: no numbers "
            "taken out by .item(), NumPy or .tolist() that change from step to step, no tensors "
            "rebound outside, no state that the model keeps between calls"
        )
    return Finding("failed", detail, found.name, remedy)


def norm(tensor: Tensor) -> float:
    return float(torch.linalg.vector_norm(tensor))
