"""Checks of a model before its parameters are laid out in one vector."""

from torch import nn
from torch.nn.parameter import is_lazy

from drmad_workers.errors import ProblemError


def require_trainable(model: nn.Module) -> None:
    """Raises ProblemError that names a parameter or module which the engine cannot train."""
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
