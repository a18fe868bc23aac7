"""Parameters that the user's `initialize` assigns in place of those that are trained."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor, nn

from drmad_workers.errors import ProblemError


@contextmanager
def adopted_parameters(
    model: nn.Module, places: Sequence[tuple[nn.Module, str, int]], own: Sequence[Tensor]
) -> Iterator[None]:
    """Copies the values of parameters that are assigned inside, and puts the own ones back.

    Args:
        places: each module and attribute that holds an own parameter, with its number.
        own: the parameters that are trained.
    Raises:
        ProblemError: the modules changed, or a parameter has another shape or no gradient.
    """
    names = {id(module): name for name, module in model.named_modules()}
    parameters = {name: parameter.shape for name, parameter in model.named_parameters()}
    yield
    for name, module in model.named_modules():
        if id(module) not in names:
            raise refused(f"the module {name or 'model'!r}", "model.head.reset_parameters()")
    for module, attribute, number in places:
        name = f"{names[id(module)]}.{attribute}".lstrip(".")
        found, parameter = module._parameters.get(attribute), own[number]
        if found is None or found.shape != parameter.shape or not found.requires_grad:
            raise refused(
                f"the parameter {name!r}, whose shape is {tuple(parameter.shape)}",
                f"nn.init.normal_(model.{name})",
            )
        if found is not parameter:
            parameter.copy_(found)
            module._parameters[attribute] = parameter  # type: ignore[assignment]
    after = {name: parameter.shape for name, parameter in model.named_parameters()}
    if changed := sorted(after.items() ^ parameters.items()):
        raise refused(f"the parameter {changed[0][0]!r}", "nn.init.normal_(model.weight)")


def refused(what: str, example: str) -> ProblemError:
    return ProblemError(
        f"initialize must change the values of the model that it is given, and it replaced {what}: "
        f"the training would not reach the new one; draw in place, by {example} for example, and "
        "build the modules in build()",
        "initialize",
    )
