"""Code that casts to float32 by name, which would round what a proof computes in float64."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map_only

from drmad_workers.application import outputs_of
from drmad_workers.objective.autograd.autograd_graph import graph_nodes
from drmad_workers.problem import Problem


class Wide(TorchFunctionMode):
    """Inside, float32 means float64: a cast that widens half precision narrows nothing."""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        func = Tensor.double if func is Tensor.float else func
        args, kwargs = tree_map_only(torch.dtype, _wide, (args, dict(kwargs or {})))
        return func(*args, **kwargs)


def widened(problem: Problem) -> Problem:
    """The problem with its model and its losses computed inside Wide."""
    inner, outer = problem.inner_loss, problem.outer_loss
    return replace(
        problem,
        apply=_inside(partial(outputs_of, problem)),
        loss=_inside(problem.loss),
        inner_loss=inner and _inside(inner),
        outer_loss=outer and _inside(outer),
    )


def has_float32(loss: Tensor) -> bool:
    """Whether the graph of a loss contains values in float32."""
    return any(
        each.dtype == torch.float32 for node in graph_nodes(loss) for each in node._input_metadata
    )


def _inside(function: Callable[..., Any]) -> Callable[..., Any]:
    def call(*arguments: Any) -> Any:
        with Wide():
            return function(*arguments)

    return call


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float32 else dtype
