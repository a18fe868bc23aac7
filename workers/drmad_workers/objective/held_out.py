"""Metrics of a trained model on held-out data, and the trained model itself."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from drmad_workers.application import loss_of, outputs_of
from drmad_workers.data.examples import Examples
from drmad_workers.distributed.workers import ALONE
from drmad_workers.errors import ProblemError
from drmad_workers.objective.objective import Objective
from drmad_workers.problem import AllRows, Batch, Loss


def held_out_figures(
    objective: Objective, examples: Examples, prefix: str, poll: Callable[[], None]
) -> dict[str, float]:
    """`<prefix>_loss` and `<prefix>_<metric>` of every metric over all rows."""
    totals: dict[str, Tensor] = {}
    metrics = objective.problem.metrics
    whole = {name: each for name, each in metrics.items() if isinstance(each, AllRows)}
    kept: dict[Loss | None, list[tuple[Tensor, ...]]] = {each.rows: [] for each in whole.values()}

    def measure(batch: Batch) -> tuple[dict[str, Tensor], list[tuple[Tensor, ...]]]:
        poll()
        figures, outputs = means_of(objective, batch)
        return figures, [of_rows(rows, outputs, batch) for rows in kept]

    objective.parameters.eval()
    # A metric of all rows needs them in one place, and every worker then measures all of them.
    workers = ALONE if whole or examples.rows < objective.workers.size else objective.workers
    own = examples.of_worker(workers)
    for (figures, parts), share_of_own in objective.held_out.over(own, measure):
        share = share_of_own * own.rows / examples.rows
        for name, figure in figures.items():
            total = totals.get(name, torch.zeros((), device=figure.device))
            totals[name] = total + figure.to(torch.float64) * share
        for each, part in zip(kept.values(), parts, strict=True):
            each.append(part)
    objective.parameters.train()
    workers.sum(*totals.values())
    for name, metric in whole.items():
        together = [torch.cat(parts) for parts in zip(*kept[metric.rows], strict=True)]
        totals[name] = one_number(name, metric.measure(*together))
    return {f"{prefix}_{name}": float(total) for name, total in totals.items()}


def of_rows(rows: Loss | None, outputs: Any, batch: Batch) -> tuple[Tensor, ...]:
    """What is kept of a batch for the metrics of all rows; see AllRows."""
    if rows is None:
        return outputs, batch.targets
    with torch.no_grad():
        return (loss_of(rows, outputs, batch.content),)


def means_of(objective: Objective, batch: Batch) -> tuple[dict[str, Tensor], Any]:
    """The outer loss and every metric that is a mean, on a batch, each of shape ().

    Also the outputs, if there are metrics. Nothing has a graph.
    """
    problem, losses = objective.problem, objective.losses
    with torch.set_grad_enabled(losses.outer_needs_grad):
        figures = {"loss": one_number("loss", losses.outer(batch).detach())}
    if not problem.metrics:
        return figures, None
    with torch.no_grad():
        outputs = outputs_of(problem, objective.parameters.model, batch.content)
        for name, metric in problem.metrics.items():
            if not isinstance(metric, AllRows):
                figures[name] = one_number(name, loss_of(metric, outputs, batch.content))
    return figures, outputs


def one_number(name: str, figure: Tensor | float) -> Tensor:
    """The figure with shape (); raises ProblemError unless it is one number."""
    tensor = torch.as_tensor(figure)
    if tensor.numel() != 1:
        raise ProblemError(
            f"metric {name!r} must return one number, got shape {tuple(tensor.shape)}",
            f"metrics.{name}",
        )
    return tensor.reshape(())


def diagnostic_figures(objective: Objective) -> dict[str, float]:
    """The problem's diagnostics of the transformed hyperparameters, without those that are None."""
    values: Mapping[str, Tensor] = objective.values.all_on_cpu()
    figures = {name: measure(values) for name, measure in objective.problem.diagnostics.items()}
    return {name: float(figure) for name, figure in figures.items() if figure is not None}


def model_state(objective: Objective) -> dict[str, Tensor]:
    """Weights and buffers by state_dict name, copied to the CPU.

    If the model has frozen parameters, only what is not as it was given: the parameters that are
    trained, the carried values, and frozen parameters that a function `initialize` wrote into.
    """
    kept = _kept_state(objective)
    return {name: tensor.detach().to("cpu", copy=True) for name, tensor in kept.items()}


def model_bytes(objective: Objective) -> int:
    """The size of `model_state`, which is not copied for it."""
    kept = _kept_state(objective).values()
    return sum(tensor.numel() * tensor.element_size() for tensor in kept)


def _kept_state(objective: Objective) -> dict[str, Tensor]:
    parameters = objective.parameters
    state = parameters.model.state_dict(keep_vars=True)
    has_frozen = not all(p.requires_grad for p in parameters.model.parameters())
    changed = {id(value.current) for value in parameters.carried.values} | parameters.drawn_frozen
    return {
        name: tensor
        for name, tensor in state.items()
        if torch.is_tensor(tensor)
        and (tensor.requires_grad or id(tensor) in changed or not has_frozen)
    }
