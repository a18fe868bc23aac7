"""The methods that compute a hypergradient, by name; each implements method.Method."""

from drmad_workers.hypergradients.automatic.auto import Auto
from drmad_workers.hypergradients.automatic.choice import Choice, ProbeResult
from drmad_workers.hypergradients.forward import Forward
from drmad_workers.hypergradients.implicit import Implicit
from drmad_workers.hypergradients.method import Method
from drmad_workers.hypergradients.one_step import OneStep
from drmad_workers.hypergradients.replay import Replay
from drmad_workers.hypergradients.reversible import Reversible
from drmad_workers.hypergradients.shortcut import Shortcut
from drmad_workers.hypergradients.stored import Stored

__all__ = [
    "METHODS",
    "Auto",
    "Choice",
    "Forward",
    "Implicit",
    "Method",
    "OneStep",
    "ProbeResult",
    "Replay",
    "Reversible",
    "Shortcut",
    "Stored",
]

METHODS: dict[str, type[Method]] = {
    method.name: method
    for method in (Auto, Shortcut, Replay, Stored, Reversible, OneStep, Implicit, Forward)
}
