"""Metrics of a trained model on held-out data, and the trained model itself."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from drmad_workers.data.examples import Examples
from drmad_workers.errors import ProblemError
from drmad_workers.objective.application import loss_of, outputs_of
from drmad_workers.objective.objective import Objective
from drmad_workers.problem import Batch


def held_out_figures(
    objective: Objective, examples: Examples, prefix: str, poll: Callable[[], None]
) -> dict[str, float]:
    """`<prefix>_loss` and `<prefix>_<metric>` of every metric, as means over all rows."""
    totals: dict[str, Tensor] = {}

    def measure(batch: Batch) -> dict[str, Tensor]:
        poll()
        return figures_of(objective, batch)

    objective.parameters.eval()
    for figures, share in objective.held_out.over(examples, measure):
        for name, figure in figures.items():
            total = totals.get(name, torch.zeros((), device=figure.device))
            totals[name] = total + figure.to(torch.float64) * share
    objective.parameters.train()
    return {f"{prefix}_{name}": float(total) for name, total in totals.items()}


def figures_of(objective: Objective, batch: Batch) -> dict[str, Tensor]:
    """The outer loss and every metric on a batch, each of shape (), without graphs."""
    problem, losses = objective.problem, objective.losses
    with torch.set_grad_enabled(losses.outer_needs_grad):
        figures = {"loss": losses.outer(batch).detach()}
    if problem.metrics:
        with torch.no_grad():
            outputs = outputs_of(problem, objective.parameters.model, batch.content)
            for name, metric in problem.metrics.items():
                figures[name] = torch.as_tensor(loss_of(metric, outputs, batch.content))
    for name, figure in figures.items():
        if figure.numel() != 1:
            raise ProblemError(
                f"metric {name!r} must return one number, got shape {tuple(figure.shape)}",
                f"metrics.{name}",
            )
    return {name: figure.reshape(()) for name, figure in figures.items()}


def diagnostic_figures(objective: Objective) -> dict[str, float]:
    """The problem's diagnostics of the transformed hyperparameters, without those that are None."""
    values: Mapping[str, Tensor] = objective.values.all_on_cpu()
    figures = {name: measure(values) for name, measure in objective.problem.diagnostics.items()}
    return {name: float(figure) for name, figure in figures.items() if figure is not None}


def model_state(objective: Objective) -> dict[str, Tensor]:
    """Weights and buffers by state_dict name, copied to the CPU.

    If the model has frozen parameters, only what training changes: the parameters that are trained,
    and the carried values.
    """
    parameters = objective.parameters
    state = parameters.model.state_dict(keep_vars=True)
    has_frozen = not all(p.requires_grad for p in parameters.model.parameters())
    carried = {id(value.current) for value in parameters.carried.values}
    return {
        name: tensor.detach().to("cpu", copy=True)
        for name, tensor in state.items()
        if torch.is_tensor(tensor)
        and (tensor.requires_grad or id(tensor) in carried or not has_frozen)
    }
