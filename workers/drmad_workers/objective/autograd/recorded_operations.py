"""Operations of torch, recorded as a list and compiled to code that runs them again."""

from __future__ import annotations

import logging
import operator
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from functools import cache, partial
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

logger = logging.getLogger(__name__)

Tensors = Sequence[Tensor | None]

REFUSED = {
    torch.Tag.nondeterministic_seeded,
    torch.Tag.data_dependent_output,
    torch.Tag.dynamic_output_shape,
}
"""Operations that draw random numbers, or whose results Python code may branch on."""

REFUSED_BY_NAME = {"aten::mkldnn_rnn_layer"}
"""The LSTM of oneDNN (float32 on a CPU): it leaves out the workspace of its backward pass where no
gradient is recorded, as in a trace."""


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


class Value:
    """Stands for a tensor in recorded operations: an input, a constant or the result of one."""

    __slots__ = ("_text", "number")

    def __init__(self, number: int) -> None:
        self.number = number
        self._text = f"v{number}"

    def __repr__(self) -> str:
        return self._text


INPUT, CONSTANT = "input", "constant"


class Operation(NamedTuple):
    """One operation of torch, or where a tensor comes from; its arguments hold Values."""

    target: Any
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = {}


class OperationRecorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Records what torch computes inside as a list, with equal operations recorded once."""

    def __init__(self, inputs: Sequence[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._operations: list[Operation] = []
        self._texts: list[tuple[Any, str]] = []
        """What each operation calls, and its arguments as text: these determine the code."""
        self._constants: dict[str, Tensor] = {}
        self._refused: str | None = None
        self._values: dict[int, Value] = {}
        self._kept: list[Tensor] = []  # keeps identities and storages from being reused
        self._known: dict[tuple[Any, str, int], tuple[Value, Tensor]] = {}
        self._writes = 0
        self._fixed: set[int] = set()
        """Storages that must not be written to: of inputs, constants and shared results."""
        for tensor in inputs:
            self._fix(tensor)
            self._name(tensor, self._append(Operation(INPUT), ""))

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
        if func is torch.ops.aten._efficientzerotensor.default:
            func = torch.ops.aten.zeros.default  # torch crashes where a mode sees the former
        out = func(*args, **(kwargs or {}))
        if self._refused is None and not is_mark(func):
            self._note(func, args, kwargs or {}, out)
        return out

    def trace(self, outputs: Tensors, forms: dict[Hashable, Form]) -> Trace | None:
        """The function from the inputs to the outputs; None if it cannot be traced.

        `forms` keeps the compiled code of each sequence of operations, which most runs share.
        """
        values = [None if out is None else self._value(out) for out in outputs]
        if self._refused is not None:
            logger.info("a function that calls %s is not traced", self._refused)
            return None
        key = (*self._texts, repr(values))
        form = forms.get(key)
        if form is None:
            form = forms[key] = Form(graph_of(self._operations, values), self._constants)
        return Trace(form, self._constants)

    def _note(self, func: Any, args: Any, kwargs: Any, out: Any) -> None:
        is_refused, is_mutable = traits(func)
        if is_refused and not (func is torch.ops.aten.index.Tensor and is_by_number(args)):
            self._refused = str(func)
            return
        if any(isinstance(t, Tensor) and t.layout != torch.strided for t in leaves([*args, out])):
            self._refused = f"{func} of sparse tensors"
            return
        named = tuple(map(self._named, args))
        by_name = {name: self._named(value) for name, value in kwargs.items()}
        if func is torch.ops.aten.detach.default:
            self._name(out, named[0])
        elif func is torch.ops.aten.t.default and self._operations[named[0].number].target is func:
            self._name(out, self._operations[named[0].number].args[0])
        elif is_mutable:
            if any(storage(each) in self._fixed for each in written(func, args, kwargs)):
                self._refused = str(func)
                return
            self._writes += 1
            self._name_all(out, self._append(Operation(func, named, by_name)))
        elif isinstance(out, Tensor):
            self._name(out, self._once(Operation(func, named, by_name), out))
        else:
            self._name_all(out, self._append(Operation(func, named, by_name)))

    def _append(self, operation: Operation, text: str | None = None) -> Value:
        text = repr(operation[1:]) if text is None else text
        self._operations.append(operation)
        self._texts.append((operation.target, text))
        return Value(len(self._operations) - 1)

    def _once(self, operation: Operation, out: Tensor) -> Value:
        """The value of the operation, or of an equal earlier one if nothing was written since."""
        text = repr(operation[1:])
        key = (operation.target, text, self._writes)
        if key in self._known:
            value, first = self._known[key]
            self._fix(first)
            self._fix(out)
            return value
        value = self._append(operation, text)
        self._known[key] = (value, out)
        return value

    def _name_all(self, out: Any, value: Value) -> None:
        if isinstance(out, Tensor):
            self._name(out, value)
        elif isinstance(out, tuple | list):
            for number, part in enumerate(out):
                if isinstance(part, Tensor):
                    self._name(part, self._append(Operation(operator.getitem, (value, number))))

    def _value(self, tensor: Tensor) -> Value:
        value = self._values.get(id(tensor))
        if value is None:
            name = f"constant_{len(self._constants)}"
            self._constants[name] = tensor
            self._fix(tensor)
            value = self._append(Operation(CONSTANT, (name,)))
            self._name(tensor, value)
        return value

    def _named(self, argument: Any) -> Any:
        """An argument of an operation with values for tensors."""
        if isinstance(argument, Tensor):
            return self._value(argument)
        if isinstance(argument, list | tuple):
            return type(argument)(map(self._named, argument))
        return argument

    def _name(self, tensor: Tensor, value: Value) -> None:
        self._values[id(tensor)] = value
        self._kept.append(tensor)

    def _fix(self, tensor: Tensor) -> None:
        self._fixed.add(storage(tensor))


def graph_of(operations: Sequence[Operation], outputs: Sequence[Value | None]) -> fx.Graph:
    """The operations that the outputs need, as a graph."""
    graph, nodes = fx.Graph(), list[fx.Node]()

    def given(argument: Any) -> Any:
        if isinstance(argument, Value):
            return nodes[argument.number]
        if isinstance(argument, list | tuple):
            return type(argument)(map(given, argument))
        return argument

    for number, (target, args, kwargs) in enumerate(operations):
        if target is INPUT:
            nodes.append(graph.placeholder(f"input_{number}"))
        elif target is CONSTANT:
            nodes.append(graph.get_attr(args[0]))
        else:
            by_name = {name: given(value) for name, value in kwargs.items()}
            nodes.append(graph.call_function(target, given(args), by_name))
    graph.output([given(each) for each in outputs])
    graph.eliminate_dead_code()
    return graph


class Form:
    """The compiled code of a sequence of operations, without the constants of one run.

    Attributes:
        constants: the names of the constants that it reads.
    """

    def __init__(self, graph: fx.Graph, constants: dict[str, Tensor]) -> None:
        for node in graph.nodes:
            if node.args and isinstance(node.args[0], fx.Node):
                node.target = DIRECT.get(node.target, node.target)
        module = fx.GraphModule(constants, graph)
        self._function = type(module).forward
        self.constants = [n.target for n in module.graph.nodes if n.op == "get_attr"]

    def bind(self, constants: Mapping[str, Tensor]) -> Callable[..., Tensors]:
        """The function of the inputs, with these constants."""
        return partial(self._function, SimpleNamespace(**{n: constants[n] for n in self.constants}))


class Trace:
    """A form with the constants of one run."""

    def __init__(self, form: Form, constants: Mapping[str, Tensor]) -> None:
        self.form = form
        self._function = form.bind(constants)

    def __call__(self, inputs: Sequence[Tensor]) -> Tensors:
        with torch.no_grad():
            return self._function(*inputs)


_aten = torch.ops.aten
DIRECT: dict[Any, Callable[..., Any]] = {
    _aten.add.Tensor: torch.add,
    _aten.addmm.default: torch.addmm,
    _aten.exp.default: torch.exp,
    _aten.expand.default: Tensor.expand,
    _aten.mm.default: torch.mm,
    _aten.mul.Tensor: torch.mul,
    _aten.neg.default: torch.neg,
    _aten.relu.default: torch.relu,
    _aten.sub.Tensor: torch.sub,
    _aten.sum.dim_IntList: torch.sum,
    _aten.t.default: torch.t,
    _aten.tanh.default: torch.tanh,
    _aten.view.default: Tensor.view,
}
"""Torch's own bindings of frequent operations, which start the same kernels. On a matrix of 50 x 50
a call takes 30 % less than through torch.ops."""


@cache
def traits(func: Any) -> tuple[bool, bool]:
    """Whether the operation is one that is refused, and whether it writes into its arguments."""
    is_refused = not REFUSED.isdisjoint(func.tags) or func._schema.name in REFUSED_BY_NAME
    return is_refused, func._schema.is_mutable


@cache
def is_mark(func: Any) -> bool:
    """Whether the operation marks a section for the profiler, and computes nothing."""
    return bool(func.namespace == "profiler")


def is_by_number(args: Iterable[Any]) -> bool:
    """Whether an index has no masks, so that the shape of its result depends on no values."""
    tensors = [each for each in leaves(args) if isinstance(each, Tensor)]
    return all(each.dtype != torch.bool for each in tensors)


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
