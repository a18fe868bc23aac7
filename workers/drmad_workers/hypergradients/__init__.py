"""Methods to compute a hypergradient, by name; one file each, one signature (base.Method)."""

from drmad_workers.hypergradients.base import Method
from drmad_workers.hypergradients.replay import Replay
from drmad_workers.hypergradients.shortcut import Shortcut

__all__ = ["METHODS", "Method", "Replay", "Shortcut"]

METHODS: dict[str, type[Method]] = {method.name: method for method in (Shortcut, Replay)}
