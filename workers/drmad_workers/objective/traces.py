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

from __future__ import annotations

import logging
import operator
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, fx
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from drmad_workers.errors import Restart

logger = logging.getLogger(__name__)

Tensors = Sequence[Tensor | None]

Trace = Callable[..., Tensors]

FIRST_TRACED = 3
"""The call of the same shapes, counted in a run, that is traced."""
MAX_SHAPES = 64
"""Bounds the number of shapes that are traced in a run."""
REFUSED = {
    torch.Tag.nondeterministic_seeded,
    torch.Tag.data_dependent_output,
    torch.Tag.dynamic_output_shape,
}
"""Operations that draw random numbers, or whose results Python code may branch on."""


class Traced:
    """Calls functions, and traces a function in the third call of the same shapes of a run.

    A trace keeps as a constant what it is not given as an input, such as captured tensors and
    numbers. It therefore lives for one run, and its results are compared with the function's own:
    in the first call after the recording, then in the calls 8, 32, 128, .., and in the next call
    after `check`. All bits must agree. Where they do not, the function is not traced again, and a
    run that has used the trace is repeated without it.

    A function is not traced if one of its operations writes into its inputs, is one of REFUSED, or
    reads values of tensors into Python.

    Attributes:
        traces: the traces in use in this run, by key.
    """

    def __init__(self) -> None:
        self._refused: set[Hashable] = set()
        self._forms: dict[Hashable, Form] = {}
        self.begin()

    def begin(self) -> None:
        """Begins a run: what was a constant may have another value now."""
        self._calls: dict[Hashable, int] = {}
        self._due: set[Hashable] = set()
        self._unused: set[Hashable] = set()
        self.traces: dict[Hashable, Trace] = {}

    def check(self) -> None:
        """Compares every trace with its function in the next call."""
        self._due = set(self.traces)

    def __call__(
        self, key: Hashable, inputs: Sequence[Tensor], function: Callable[[], Tensors]
    ) -> Tensors:
        """The results of `function`, without a graph.

        Args:
            key: determines the shapes and types of the inputs.
            inputs: every tensor that `function` reads and that changes from call to call.
            function: the same computation in every call.
        Raises:
            Restart: the function has changed since it was traced.
        """
        if key in self._refused:
            return function()
        calls = self._calls.get(key, 0) + 1
        if calls == 1 and len(self._calls) == MAX_SHAPES:
            return function()
        self._calls[key] = calls
        if calls < FIRST_TRACED:
            return function()
        trace = self.traces.get(key)
        if trace is None:
            return self._record(key, inputs, function)
        if key not in self._unused and key not in self._due and not is_due(calls):
            with torch.no_grad():
                return trace(*inputs)
        return self._compare(key, trace, inputs, function)

    def _record(
        self, key: Hashable, inputs: Sequence[Tensor], function: Callable[[], Tensors]
    ) -> Tensors:
        reads = ValueReads()
        with reads, OperationRecorder(inputs) as recorder:
            outputs = function()
        trace = None if reads.found else recorder.trace(outputs, self._forms)
        if trace is None:
            self._refused.add(key)
        else:
            self.traces[key] = trace
            self._unused.add(key)
        return outputs

    def _compare(
        self,
        key: Hashable,
        trace: Trace,
        inputs: Sequence[Tensor],
        function: Callable[[], Tensors],
    ) -> Tensors:
        outputs = function()
        with torch.no_grad():
            found = trace(*inputs)
        was_used = key not in self._unused
        self._due.discard(key)
        self._unused.discard(key)
        if not all(map(same, found, outputs)):
            logger.info("a trace differs from the function that was traced, and is not used")
            self._refused.add(key)
            del self.traces[key]
            if was_used:
                raise Restart("a traced function has changed", lambda: None)
        return outputs


def is_due(calls: int) -> bool:
    """Whether this call is one of 8, 32, 128, .., in which a trace is compared."""
    return calls.bit_count() == 1 and calls.bit_length() % 2 == 0


class ValueReads(TorchFunctionMode):
    """Notes whether a function reads values of tensors into Python, past torch's dispatcher."""

    def __init__(self) -> None:
        super().__init__()
        self.found = False

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        self.found |= func in _READS
        return func(*args, **(kwargs or {}))


_READS = {Tensor.tolist, Tensor.numpy, Tensor.__array__, Tensor.item, Tensor.__index__}
_READS |= {Tensor.__bool__, Tensor.__int__, Tensor.__float__, Tensor.__complex__}


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

    def trace(self, outputs: Tensors, forms: dict[Hashable, Form]) -> Trace | None:
        """The function from the inputs to the outputs; None if it cannot be traced.

        `forms` keeps the compiled code of each sequence of operations, which most runs share.
        """
        nodes = [None if out is None else self._node(out) for out in outputs]
        if self._refused is not None:
            logger.info("a function that calls %s is not traced", self._refused)
            return None
        self._graph.output(nodes)
        key = repr([(node.op, node.target, node.args, node.kwargs) for node in self._graph.nodes])
        form = forms.get(key)
        if form is None:
            self._graph.eliminate_dead_code()
            form = forms[key] = Form(fx.GraphModule(self._constants, self._graph))
        return form.bind(self._constants)

    def _note(self, func: Any, args: Any, kwargs: Any, out: Any) -> None:
        given = [*leaves(args), *leaves(kwargs.values())]
        by_number = func is torch.ops.aten.index.Tensor and not any(
            isinstance(each, Tensor) and each.dtype == torch.bool for each in given
        )
        if not (by_number or REFUSED.isdisjoint(func.tags)):
            self._refused = str(func)
            return
        nodes = tuple(map(self._named, args)), {k: self._named(v) for k, v in kwargs.items()}
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

    def _named(self, argument: Any) -> Any:
        """An argument of an operation with nodes for tensors."""
        if isinstance(argument, Tensor):
            return self._node(argument)
        if isinstance(argument, list | tuple):
            return type(argument)(map(self._named, argument))
        return argument

    def _name(self, tensor: Tensor, node: fx.Node) -> None:
        self._nodes[id(tensor)] = node
        self._kept.append(tensor)

    def _fix(self, tensor: Tensor) -> None:
        self._fixed.add(storage(tensor))


class Form:
    """The compiled code of a sequence of operations, without the constants of one run."""

    def __init__(self, module: fx.GraphModule) -> None:
        self._function = type(module).forward
        self._used = [n.target for n in module.graph.nodes if n.op == "get_attr"]

    def bind(self, constants: Mapping[str, Tensor]) -> Trace:
        """The function of the inputs, with these constants."""
        return partial(self._function, SimpleNamespace(**{n: constants[n] for n in self._used}))


def leaves(arguments: Iterable[Any]) -> Iterator[Any]:
    """The arguments of an operation, with lists resolved: the dispatcher knows no other tree."""
    for argument in arguments:
        if isinstance(argument, list | tuple):
            yield from leaves(argument)
        else:
            yield argument


def storage(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def written(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Tensor]:
    """The tensors that the operation writes into."""
    found = []
    for number, stated in enumerate(func._schema.arguments):
        given = args[number] if number < len(args) else kwargs.get(stated.name)
        if stated.alias_info is not None and stated.alias_info.is_write:
            found += [each for each in leaves([given]) if isinstance(each, Tensor)]
    return found


def same(one: Tensor | None, other: Tensor | None) -> bool:
    if one is None or other is None:
        return one is other
    return torch.equal(one, other) or bool(((one == other) | (one.isnan() & other.isnan())).all())
