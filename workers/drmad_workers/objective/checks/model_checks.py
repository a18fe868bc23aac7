"""Checks of a model and of losses with parameters, before these are laid out in one vector."""

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from drmad_workers.errors import ProblemError
from drmad_workers.objective.parameters.held_values import loss_modules
from drmad_workers.problem import Problem


def require_losses_of_model(problem: Problem) -> None:
    """Raises ProblemError if a loss has parameters to train that are none of the model's."""
    known = {id(parameter) for parameter in problem.model.parameters()}
    for field in ("loss", "inner_loss", "outer_loss"):
        for module in loss_modules([getattr(problem, field)]):
            for name, parameter in module.named_parameters():
                if parameter.requires_grad and id(parameter) not in known:
                    raise ProblemError(
                        f"{field} must have no parameters to train beside those of the model, and "
                        f"{name!r} of {type(module).__name__} would never be trained: make the "
                        "module a part of the model, whose outputs may hold what the loss needs, "
                        "or call requires_grad_(False) on it",
                        f"problem.{field}",
                    )


def require_trainable(model: nn.Module) -> None:
    """Raises ProblemError that names a parameter or module which the engine cannot train."""
    for name, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            what = f"its module {name!r}" if name else "it"
            raise ProblemError(
                f"the model must be a module in Python, and {what} is compiled by TorchScript, "
                "inside of which no second derivative can be checked: build it from its class, and "
                "load the weights by load_state_dict(scripted.state_dict())",
                "model",
            )
    for name, parameter in model.named_parameters():
        if is_lazy(parameter):
            raise ProblemError(
                f"every parameter must have its shape, and {name!r} of a lazy module has none: "
                "call the model once on a batch in build(), before the Problem is returned",
                "model",
            )
        if not parameter.requires_grad:
            continue
        if parameter.is_complex():
            raise ProblemError(
                f"trained parameters must be real, and {name!r} is {parameter.dtype}: store its "
                "real and imaginary parts in one real parameter of shape (..., 2), and call "
                "torch.view_as_complex in the forward",
                "model",
            )
        if parameter._post_accumulate_grad_hooks:
            raise ProblemError(
                f"the parameter {name!r} has a hook of register_post_accumulate_grad_hook, which "
                "would not run, because the engine does not accumulate gradients in `.grad`: "
                "remove it, and state the optimizer in `training`",
                "model",
            )
    for name, module in model.named_modules():
        if not isinstance(module, nn.Embedding | nn.EmbeddingBag):
            continue
        if module.max_norm is not None and module.weight.requires_grad:
            raise ProblemError(
                f"the module {name!r} has max_norm={module.max_norm}, which overwrites its weight "
                "in every forward pass: build it without max_norm, and normalise in the forward: "
                "F.embedding(x, F.normalize(weight, dim=1) * norm)",
                "model",
            )
        if module.sparse:
            raise ProblemError(
                f"the module {name!r} has sparse=True, and gradients must be dense: build it "
                "without sparse, which changes no result",
                "model",
            )
