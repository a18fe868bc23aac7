"""Functions of tensors that are traced once and run again without autograd.

A Hessian-vector product builds the graph of the gradient and differentiates it. It builds that
graph anew in every call, and never reads most values of the gradient. A trace repeats the same
operations on the same kernels, without autograd and without the values that nothing reads, and
returns the same bits.

The table gives the time per call relative to eager, for an MLP 784-50-50-50-10 on one thread of a
CPU (torch 2.13, `benchmarks/engine.py --only traces`) at minibatches of 50 / 100; the seconds to
prepare a product at 100, without caches; and the cost of the first use in a process beyond torch:

    form                gradient     product      prepare     first use      same bits as eager
    this module         .60 / .62    .59 / .60      .03 s     .01 s,   1 MB  yes
    make_fx             .76 / .75    .69 / .71      .21 s     1.9 s,  76 MB  yes
    make_fx, Inductor   .45 / .52    .32 / .42      8.0 s      21 s, 160 MB  no

make_fx records more operations (`detach`, `t` of `t`). Inductor is the fastest per call, but needs
a C++ compiler and compiles for each shape. torch.compile of the product itself fails, because
AOTAutograd has no double backward.
"""

import logging
import math
import operator
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

logger = logging.getLogger(__name__)

Tensors = Sequence[Tensor | None]

TRACED_AFTER_S = 0.02
"""Seconds that are spent on a function of the same shapes before it is traced."""
MAX_SHAPES = 64
"""Bounds the number of shapes whose time is measured."""
REFUSED = {
    torch.Tag.nondeterministic_seeded,
    torch.Tag.data_dependent_output,
    torch.Tag.dynamic_output_shape,
}
"""Operations that draw random numbers, or whose results Python code may branch on."""


class Traced:
    """Calls functions, and traces a function once TRACED_AFTER_S was spent on its shapes.

    The first result of a trace is compared with the function's own. Unless all bits agree, the
    function is not traced. Neither is a function with an operation that writes into its inputs or
    is one of REFUSED.

    Attributes:
        traces: the traces in use, by key.
    """

    def __init__(self) -> None:
        self._spent: dict[Hashable, float] = {}
        self._candidates: dict[Hashable, Trace] = {}
        self.traces: dict[Hashable, Trace] = {}

    def __call__(
        self, key: Hashable, inputs: Sequence[Tensor], function: Callable[[], Tensors]
    ) -> Tensors:
        """The results of `function`, without a graph.

        Args:
            key: determines the shapes and types of the inputs.
            inputs: every tensor that `function` reads and that changes from call to call.
            function: the same computation in every call.
        """
        trace = self.traces.get(key)
        if trace is not None:
            with torch.no_grad():
                return trace(*inputs)
        spent = self._spent.get(key, 0.0)
        if spent == 0.0 and len(self._spent) == MAX_SHAPES:
            return function()
        if spent >= TRACED_AFTER_S:
            self._spent[key] = -math.inf  # once
            with OperationRecorder(inputs) as recorder:
                outputs = function()
            if (candidate := recorder.trace(outputs)) is not None:
                self._candidates[key] = candidate
            return outputs
        started = time.perf_counter()
        outputs = function()
        self._spent[key] = spent + time.perf_counter() - started
        if (candidate := self._candidates.pop(key, None)) is not None:
            with torch.no_grad():
                found = candidate(*inputs)
            if all(map(same, found, outputs)):
                self.traces[key] = candidate
            else:
                logger.info("a trace differs from the function that was traced, and is not used")
        return outputs


Trace = Callable[..., Tensors]


class OperationRecorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Records what torch computes inside as a graph, with equal operations recorded once."""

    def __init__(self, inputs: Sequence[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._graph = fx.Graph()
        self._constants: dict[str, Tensor] = {}
        self._refused: str | None = None
        self._nodes: dict[int, fx.Node] = {}
        self._kept: list[Tensor] = []  # keeps identities and storages from being reused
        self._known: dict[tuple[Any, ...], tuple[fx.Node, Tensor]] = {}
        self._writes = 0
        self._fixed: set[int] = set()
        """Storages that must not be written to: of inputs, constants and shared results."""
        for number, tensor in enumerate(inputs):
            self._fix(tensor)
            self._name(tensor, self._graph.placeholder(f"input_{number}"))

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Returns False: True would load torch._dynamo, which takes a second and 80 MB."""
        return False

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        if self._refused is None:
            self._note(func, args, kwargs or {}, out)
        return out

    def trace(self, outputs: Tensors) -> Trace | None:
        """The function from the inputs to the outputs; None if it cannot be traced."""
        nodes = [None if out is None else self._node(out) for out in outputs]
        if self._refused is not None:
            logger.info("a function that calls %s is not traced", self._refused)
            return None
        self._graph.output(nodes)
        self._graph.eliminate_dead_code()
        trace: Trace = fx.GraphModule(self._constants, self._graph).forward
        return trace

    def _note(self, func: Any, args: Any, kwargs: Any, out: Any) -> None:
        given = tree_leaves((args, kwargs))
        by_number = func is torch.ops.aten.index.Tensor and not any(
            isinstance(each, Tensor) and each.dtype == torch.bool for each in given
        )
        if not (by_number or REFUSED.isdisjoint(func.tags)):
            self._refused = str(func)
            return
        nodes = tree_map_only(Tensor, self._node, (args, kwargs))
        if func is torch.ops.aten.detach.default:
            self._name(out, nodes[0][0])
        elif func is torch.ops.aten.t.default and nodes[0][0].target is func:
            self._name(out, nodes[0][0].args[0])
        elif func._schema.is_mutable:
            if any(storage(each) in self._fixed for each in written(func, args, kwargs)):
                self._refused = str(func)
                return
            self._writes += 1
            self._name_all(out, self._graph.call_function(func, *nodes))
        elif isinstance(out, Tensor):
            self._name(out, self._once(func, nodes, out))
        else:
            self._name_all(out, self._graph.call_function(func, *nodes))

    def _once(self, func: Any, nodes: Any, out: Tensor) -> fx.Node:
        """The node of the operation, or of an equal earlier one if nothing was written since."""
        key = (func, repr(nodes), self._writes)
        if key in self._known:
            node, first = self._known[key]
            self._fix(first)
            self._fix(out)
            return node
        node = self._graph.call_function(func, *nodes)
        self._known[key] = (node, out)
        return node

    def _name_all(self, out: Any, node: fx.Node) -> None:
        if isinstance(out, Tensor):
            self._name(out, node)
        elif isinstance(out, tuple | list):
            for number, part in enumerate(out):
                if isinstance(part, Tensor):
                    self._name(part, self._graph.call_function(operator.getitem, (node, number)))

    def _node(self, tensor: Tensor) -> fx.Node:
        node = self._nodes.get(id(tensor))
        if node is None:
            name = f"constant_{len(self._constants)}"
            self._constants[name] = tensor
            self._fix(tensor)
            node = self._graph.get_attr(name)
            self._name(tensor, node)
        return node

    def _name(self, tensor: Tensor, node: fx.Node) -> None:
        self._nodes[id(tensor)] = node
        self._kept.append(tensor)

    def _fix(self, tensor: Tensor) -> None:
        self._fixed.add(storage(tensor))


def storage(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def written(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Tensor]:
    """The tensors that the operation writes into."""
    found = []
    for number, stated in enumerate(func._schema.arguments):
        given = args[number] if number < len(args) else kwargs.get(stated.name)
        if stated.alias_info is not None and stated.alias_info.is_write:
            found += [each for each in tree_leaves(given) if isinstance(each, Tensor)]
    return found


def same(one: Tensor | None, other: Tensor | None) -> bool:
    return one is other or (one is not None and other is not None and torch.equal(one, other))
