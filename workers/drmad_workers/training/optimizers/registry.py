"""From the name of an inner optimizer to its class, by the table of the client."""

from functools import cache
from importlib import import_module

from drmad_client.spec.inner.optimizers import OPTIMIZERS
from drmad_workers.training.optimizers.adam import Adam
from drmad_workers.training.optimizers.base import NamedRule
from drmad_workers.training.optimizers.sgd import MomentumSGD

OptimizerClass = type[MomentumSGD] | type[Adam] | type[NamedRule]
"""Those with a reverse of their own, and the rules of RuleOptimizer."""


@cache
def optimizer_class(name: str) -> OptimizerClass:
    """The class that implements the optimizer of this name."""
    module, _, class_name = OPTIMIZERS[name].engine.partition(":")
    found: OptimizerClass = getattr(
        import_module(f"drmad_workers.training.optimizers.{module}"), class_name
    )
    return found
