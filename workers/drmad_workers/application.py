"""How a problem's model and losses are applied to the content of a minibatch."""

import inspect
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from drmad_workers import trees
from drmad_workers.errors import ProblemError
from drmad_workers.problem import Batch, FullLoss, Loss, Problem, described, is_pair

NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


def outputs_of(problem: Problem, model: nn.Module, content: Any) -> Any:
    """The outputs of the model on the content of a minibatch; see Problem.apply."""
    content = trees.copied(content)
    if problem.apply is not None:
        return problem.apply(model, content)
    if is_pair(content):
        return applied(model, content[0])
    if isinstance(content, Mapping):
        return applied(model, accepted(model, content))
    return model(content)


def loss_of(loss: Loss, outputs: Any, content: Any) -> Tensor:
    """A loss or a metric of the outputs: by the targets of a pair, or by the whole content."""
    return loss(outputs, trees.copied(content[1] if is_pair(content) else content))


def full_loss_of(
    loss: FullLoss, model: nn.Module, arguments: Mapping[str, Tensor], batch: Batch
) -> Tensor:
    """A training or held-out loss of the problem's own."""
    return loss(model, arguments, Batch(trees.copied(batch.content), batch.index))


def targets_of(problem: Problem, content: Any) -> Tensor | None:
    """The targets of the rows as one tensor; None if the problem does not say which they are."""
    if problem.targets is not None:
        return problem.targets(trees.copied(content))
    targets = content[1] if is_pair(content) else None
    return targets if isinstance(targets, Tensor) else None


def accepted(model: nn.Module, content: Mapping[str, Any]) -> Mapping[str, Any]:
    """The entries that the model's forward takes by name; the content itself if it takes none."""
    taken = inspect.signature(model.forward).parameters.values()
    if any(each.kind is inspect.Parameter.VAR_KEYWORD for each in taken):
        return content
    names = {each.name for each in taken if each.kind in NAMED}
    return {key: value for key, value in content.items() if key in names} or content


def applied(model: nn.Module, inputs: Any) -> Any:
    """The model on the inputs: on their parts if its forward takes those, or else as they are."""
    if not isinstance(inputs, Mapping | tuple | list):
        return model(inputs)
    parts: tuple[Any, ...] = () if isinstance(inputs, Mapping) else tuple(inputs)
    named = {str(key): part for key, part in inputs.items()} if isinstance(inputs, Mapping) else {}
    signature = inspect.signature(model.forward)
    if binds(signature, *parts, **named):
        return model(*parts, **named)
    if not named.keys() & signature.parameters.keys() and binds(signature, inputs):
        return model(inputs)
    raise ProblemError(
        f"the model must take its inputs, {described(inputs)}, and its forward accepts "
        f"{signature}: rename the parts, or state the problem's apply, (model, content) -> outputs",
        "problem.apply",
    )


def binds(signature: inspect.Signature, *args: Any, **named: Any) -> bool:
    try:
        signature.bind(*args, **named)
    except TypeError:
        return False
    return True
