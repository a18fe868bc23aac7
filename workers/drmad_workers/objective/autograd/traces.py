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
from collections.abc import Callable, Hashable, Sequence

import torch
from torch import Tensor

from drmad_workers.errors import Restart
from drmad_workers.objective.autograd.recorded_operations import (
    Form,
    OperationRecorder,
    Tensors,
    Trace,
    ValueReads,
)

logger = logging.getLogger(__name__)

FIRST_TRACED = 3
"""The call of the same shapes, counted in a run, that is traced."""
MAX_SHAPES = 64
"""Bounds the number of shapes that are traced in a run."""


class Traced:
    """Calls functions, and traces a function in the third call of the same shapes of a run.

    A trace keeps as a constant what it is not given as an input, such as captured tensors and
    numbers. It therefore lives for one run, and its results are compared with the function's own:
    in the first call after the recording, then in the calls 8, 32, 128, .., and in the next call
    after `check`. All bits must agree. Where they do not, the function is not traced again, and a
    run that has used the trace is repeated without it.

    Later runs record a function that was traced already in its first call. If it takes the same
    operations with the same numbers as in the earlier run, where its results were compared, and
    captures no tensors, then its trace is used from the second call on.

    A function is not traced if one of its operations writes into its inputs, is one of REFUSED, or
    reads values of tensors into Python.

    Attributes:
        traces: the traces in use in this run, by key.
    """

    def __init__(self) -> None:
        self._refused: set[Hashable] = set()
        self._forms: dict[Hashable, Form] = {}
        self._proven: dict[Hashable, Form] = {}
        self.begin()

    def begin(self) -> None:
        """Begins a run: what was a constant may have another value now."""
        self._calls: dict[Hashable, int] = {}
        self._due: set[Hashable] = set()
        self._unused: set[Hashable] = set()
        self.traces: dict[Hashable, Trace] = {}

    def refuses(self, key: Hashable) -> bool:
        """Whether the function is known to be one that is not traced."""
        return key in self._refused

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
        trace = self.traces.get(key)
        if trace is None:
            if calls == 1 and key in self._proven and not self._proven[key].constants:
                return self._record_again(key, inputs, function)
            return function() if calls < FIRST_TRACED else self._record(key, inputs, function)
        if key not in self._unused and key not in self._due and not is_due(calls):
            return trace(inputs)
        return self._compare(key, trace, inputs, function)

    def _record(
        self, key: Hashable, inputs: Sequence[Tensor], function: Callable[[], Tensors]
    ) -> Tensors:
        outputs, trace = recorded(inputs, function, self._forms)
        if trace is None:
            self._refused.add(key)
        else:
            self.traces[key] = trace
            self._unused.add(key)
        return outputs

    def _record_again(
        self, key: Hashable, inputs: Sequence[Tensor], function: Callable[[], Tensors]
    ) -> Tensors:
        """Takes the trace of a function that an earlier run has traced, if nothing changed."""
        outputs, trace = recorded(inputs, function, self._forms)
        if trace is not None and trace.form is self._proven[key]:
            self.traces[key] = trace
        return outputs

    def _compare(
        self,
        key: Hashable,
        trace: Trace,
        inputs: Sequence[Tensor],
        function: Callable[[], Tensors],
    ) -> Tensors:
        outputs = function()
        found = trace(inputs)
        was_used = key not in self._unused
        self._due.discard(key)
        self._unused.discard(key)
        if not all(map(same, found, outputs)):
            logger.info("a trace differs from the function that was traced, and is not used")
            self._refused.add(key)
            del self.traces[key]
            if was_used:
                raise Restart("a traced function has changed", lambda: None)
        else:
            self._proven[key] = trace.form
        return outputs


def recorded(
    inputs: Sequence[Tensor], function: Callable[[], Tensors], forms: dict[Hashable, Form]
) -> tuple[Tensors, Trace | None]:
    """The results of the function, and its trace; None if it cannot be traced."""
    reads = ValueReads()
    with reads, OperationRecorder(inputs) as recorder:
        outputs = function()
    return outputs, None if reads.found else recorder.trace(outputs, forms)


def is_due(calls: int) -> bool:
    """Whether this call is one of 8, 32, 128, .., in which a trace is compared."""
    return calls >= 8 and calls.bit_count() == 1 and calls.bit_length() % 2 == 0


def same(one: Tensor | None, other: Tensor | None) -> bool:
    if one is None or other is None:
        return one is other
    return torch.equal(one, other) or bool(((one == other) | (one.isnan() & other.isnan())).all())
