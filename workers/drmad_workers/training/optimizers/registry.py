"""From the name of an inner optimizer to its class, by the table of the client."""

from functools import cache
from importlib import import_module

from drmad_client.spec.optimizers import OPTIMIZERS
from drmad_workers.training.optimizers.base import InnerOptimizer


@cache
def optimizer_class(name: str) -> type[InnerOptimizer]:
    """The class that implements the optimizer of this name."""
    module, _, class_name = OPTIMIZERS[name].engine.partition(":")
    found: type[InnerOptimizer] = getattr(
        import_module(f"drmad_workers.training.optimizers.{module}"), class_name
    )
    return found
