"""Proof 1: the same gradient again, whatever the global random states are."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from drmad_workers.data.columns import columns_of
from drmad_workers.data.items import same as same_values
from drmad_workers.objective.parameters.carried import ModelWatch
from drmad_workers.objective.plain_objective import restored
from drmad_workers.preflight.proofs import random_states
from drmad_workers.preflight.proofs.finding import Finding, line_of
from drmad_workers.preflight.proofs.plan import REPEATS
from drmad_workers.preflight.proofs.short_problem import ShortProblem
from drmad_workers.problem import Problem

ITEMS = 4
"""The number of items of a data set that are read twice."""
ROUNDING = 1e3
"""Bounds the difference that the order of a GPU's sums explains, in units of the precision."""

DRAW_WITH_TORCH = "draw with torch's global generator, which the engine seeds for each step"


def repeatable(short: ShortProblem, problem: Problem, repeats: int, to_the_bit: bool) -> Finding:
    """Compares items of the data, w_0 and gradients with themselves.

    Args:
        problem: the problem with all of its data.
        repeats: the number of gradients.
        to_the_bit: whether rounding on a GPU counts as a difference too.
    """
    name = unequal_item(problem)
    if name is not None:
        return Finding(
            "failed",
            f"two reads of the same item of {name} differ",
            name,
            "draw with the global generators of torch, NumPy or Python, which the engine seeds for "
            "every row, and keep no state between reads",
        )
    values = short.tuner.initial_values()
    run, seed = short.run(values)
    parameters, model = run.objective.parameters, short.plain.model
    transformed = short.transformed(values)
    with restored(model):
        first = None
        for number in range(2):
            random_states.scatter(number)
            with restored(model):
                parameters.draw(seed, run.objective.problem.initialize)
                drawn = parameters.weights.clone()
            if first is not None and not torch.equal(first, drawn):
                return Finding(
                    "failed",
                    "two draws of the initial weights under one seed differ",
                    line_of(problem.initialize) or "problem.initialize",
                    DRAW_WITH_TORCH,
                )
            first = drawn
        parameters.draw(seed, run.objective.problem.initialize)
        parameters.train()
        state = ModelWatch(parameters.held)

        def plain() -> Tensor:
            batch = run.batch(0)
            gradient, by_values = short.plain.gradient(transformed, batch)
            return torch.cat([gradient, *(part.reshape(-1) for part in by_values.values())])

        def engine() -> Tensor:
            # Two steps, as a trace of a gradient is checked at the next one.
            before, taken = run.state.clone(), []
            for step in range(min(2, run.steps)):
                run.take(step)
                taken.append(run.gradient.clone())
            run.state.copy_(before)
            return torch.cat(taken)

        for compute, whose in ((plain, "loss.backward()"), (engine, "the engine")):
            reference: Tensor | None = None
            for number in range(repeats):
                random_states.scatter(number)
                found = compute()
                state.restore()
                if reference is None:
                    reference = found
                elif not same(reference, found, to_the_bit):
                    return failure(short, transformed, run.batch, state, whose, number)
    return Finding(
        "passed",
        f"{repeats} gradients of the same minibatch under other global random states are equal "
        f"{'to the bit' if to_the_bit else 'up to the order of sums on the GPU'}",
    )


def same(one: Tensor, other: Tensor, to_the_bit: bool) -> bool:
    if to_the_bit:
        return torch.equal(one, other)
    size = torch.linalg.vector_norm(one)
    apart = torch.linalg.vector_norm(one - other)
    return bool(apart <= ROUNDING * torch.finfo(one.dtype).eps * size)


def unequal_item(problem: Problem) -> str | None:
    """The name of the part of the data of which two reads of one item differ; None for none.

    Both reads begin with the same states of the global generators.
    """
    for name in ("train", "valid"):
        data = getattr(problem, name)
        if columns_of(data) is not None:
            continue
        for row in range(min(ITEMS, len(data))):
            reads = []
            for _ in range(2):
                random_states.scatter(row)
                reads.append(data[row])
            if not same_values(*reads):
                return name
    return None


def failure(
    short: ShortProblem,
    transformed: dict[str, Tensor],
    draw: Callable[[int], object],
    state: ModelWatch,
    whose: str,
    number: int,
) -> Finding:
    """The finding, with the cause if one is found."""
    detail = f"gradient {number + 1} of the same minibatch by {whose} differs from the first"
    where = unequal_module(short, transformed, state)
    problem = short.tuner.objective.problem
    if where is None:
        loss = problem.inner_loss or problem.loss
        where = line_of(loss) or ("problem.inner_loss" if problem.inner_loss else "problem.loss")
    generator = next(generators(short.plain.model), None)
    if generator is not None:
        detail += f"; the module holds a generator of its own, {generator}"
        return Finding("failed", detail, where, DRAW_WITH_TORCH)
    run, _ = short.run(short.tuner.initial_values())
    batch = run.batch(0)
    before = random_states.sources()
    short.plain.training_loss(transformed, batch)
    drawn = [name for name, state in random_states.sources().items() if state != before[name]]
    if drawn:
        return Finding("failed", f"{detail}; it draws from {' and '.join(drawn)}", where,
                       DRAW_WITH_TORCH)  # fmt: skip
    return Finding(
        "failed",
        detail,
        where,
        "let the losses and the model depend on weights, hyperparameters, batch and torch's "
        "global generator alone: no counters, no caches, no state from the call before",
    )


def generators(model: nn.Module) -> Iterator[str]:
    for name, module in model.named_modules():
        for attribute, value in module.__dict__.items():
            if isinstance(value, torch.Generator):
                yield f"{name}.{attribute}".removeprefix(".")


def unequal_module(
    short: ShortProblem, transformed: dict[str, Tensor], state: ModelWatch
) -> str | None:
    """The innermost module whose output differs from that of the first call; None for none."""
    run, _ = short.run(short.tuner.initial_values())
    names = {module: name for name, module in short.plain.model.named_modules()}
    outputs: list[tuple[nn.Module, Tensor]] = []

    def note(module: nn.Module, _: object, output: object) -> None:
        if isinstance(output, Tensor):
            outputs.append((module, output.detach().clone()))

    hooks = [module.register_forward_hook(note) for module in names]
    try:
        reference: list[tuple[nn.Module, Tensor]] | None = None
        for number in range(REPEATS):
            outputs = []
            random_states.scatter(number)
            short.plain.training_loss(transformed, run.batch(0))
            state.restore()
            if reference is None:
                reference = outputs
            for (module, one), (_, other) in zip(reference, outputs, strict=False):
                if not torch.equal(one, other):
                    return line_of(module) or names[module] or type(module).__name__
    finally:
        for hook in hooks:
            hook.remove()
    return None
