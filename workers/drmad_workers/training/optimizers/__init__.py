"""Inner update rules as functions of state, and their exact reverse; one optimizer a file."""

from drmad_workers.training.optimizers.adam import Adam
from drmad_workers.training.optimizers.base import InnerOptimizer, NamedRule
from drmad_workers.training.optimizers.rates import Factor, Rate
from drmad_workers.training.optimizers.rule_optimizer import RuleOptimizer
from drmad_workers.training.optimizers.sgd import MomentumSGD, StrideMap

__all__ = [
    "Adam",
    "Factor",
    "InnerOptimizer",
    "MomentumSGD",
    "NamedRule",
    "Rate",
    "RuleOptimizer",
    "StrideMap",
]
