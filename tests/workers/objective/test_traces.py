"""Traced functions against the same functions as they are: the same bits."""

import sys
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from drmad_workers import (
    L2,
    CustomTensor,
    Implicit,
    LossWeight,
    Method,
    OneStep,
    Problem,
    Replay,
    SampleWeight,
    Shortcut,
    Stored,
    TrainingConfig,
    TrainingData,
)
from drmad_workers.errors import Restart
from drmad_workers.hyperparameters.base import Kind
from drmad_workers.objective.autograd import traces
from drmad_workers.objective.autograd.recorded_operations import Tensors
from drmad_workers.objective.autograd.traces import Traced
from drmad_workers.replica_batch import ReplicaBatch
from tests.workers.small import CLASSES, mixing_problem, shaken, small_problem, tuner_of

TRAINING = TrainingConfig("sgd", steps=9, batch_size=4, learning_rate=0.1, momentum=0.5)
KINDS: dict[str, tuple[Callable[[], Problem], list[Kind]]] = {
    "every kind": (small_problem, [L2(per="unit"), SampleWeight(), LossWeight()]),
    "training data": (small_problem, [TrainingData()]),
    "a tensor of the user's own": (mixing_problem, [CustomTensor("mixing"), SampleWeight()]),
}
METHODS = [
    Stored(),
    Replay(),
    Shortcut(),
    Shortcut(interpolation_nodes=3),
    OneStep(),
    Implicit(damping=1.0),
]


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(traces, "FIRST_TRACED", 1)


def hypergradient(
    problem: Problem, kinds: list[Kind], method: Method, first_traced: int
) -> tuple[dict[str, Tensor], set[str]]:
    """Two meta-iterations, with what was traced from this call of a shape on."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(traces, "FIRST_TRACED", first_traced)
        tuner = tuner_of(problem, kinds, TRAINING, method)
        values = shaken(tuner)
        found = [tuner.evaluate(values, i).hypergradient for i in range(2)]
    both = {name: torch.stack([each[name] for each in found]) for name in found[0]}
    return both, {key[0] for key in tuner.objective.inner.traced.traces}  # type: ignore[index]


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
@pytest.mark.parametrize("kinds", KINDS)
def test_hypergradients_are_the_same_to_the_bit(kinds: str, method: Method) -> None:
    build, tuned = KINDS[kinds]
    plain, nothing = hypergradient(build(), tuned, method, first_traced=sys.maxsize)
    found, names = hypergradient(build(), tuned, method, first_traced=1)
    assert not nothing
    assert "gradient" in names
    assert "product" in names or method.name not in ("stored", "shortcut")
    for name, each in plain.items():
        assert torch.equal(found[name], each)


@settings(max_examples=10, deadline=None)
@given(
    st.lists(st.integers(1, 6), max_size=3),
    st.sampled_from([nn.Tanh, nn.ReLU, nn.Softplus, nn.GELU]),
    st.booleans(),
)
def test_any_network_is_traced_to_the_bit(
    hidden: Sequence[int], activation: type[nn.Module], normalised: bool
) -> None:
    sizes = [4, *hidden]
    layers: list[nn.Module] = []
    for one, other in pairwise(sizes):
        layers += [nn.Linear(one, other), activation()]
        layers += [nn.LayerNorm(other)] if normalised else []
    model = nn.Sequential(*layers, nn.Linear(sizes[-1], CLASSES))
    problem = small_problem(model)
    plain, _ = hypergradient(problem, [SampleWeight()], Stored(), first_traced=sys.maxsize)
    found, names = hypergradient(problem, [SampleWeight()], Stored(), first_traced=1)
    assert names == {"gradient", "product"}
    assert torch.equal(found["sample_weight"], plain["sample_weight"])


def test_replicas_side_by_side_are_traced() -> None:
    found = []
    for first_traced in (sys.maxsize, 1):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(traces, "FIRST_TRACED", first_traced)
            replicas = ReplicaBatch(
                small_problem(), [L2(per="unit"), SampleWeight()], TRAINING, Stored(),
                replicas=(0, 1, 2), dtype=torch.float64,
            )  # fmt: skip
            assert replicas.reason is None
            found.append(replicas.evaluate(replicas.initial_values(), 0))
    for plain, other in zip(*found, strict=True):
        for name, each in plain.hypergradient.items():
            assert torch.equal(other.hypergradient[name], each)


class Counted(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """How often operations run inside."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names: list[str] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        self.names.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


def test_a_product_leaves_out_what_nobody_reads() -> None:
    """Of a layer whose inputs need no derivative, three matrix products are left of four."""
    weights, inputs = torch.randn(3, 4, requires_grad=True), torch.randn(5, 4)
    along = torch.randn(3, 4)

    def product() -> Tensors:
        loss = (inputs @ weights.t()).tanh().sum()
        gradient = torch.autograd.grad(loss, weights, create_graph=True)
        return torch.autograd.grad(gradient, weights, along)

    function = Traced()
    for _ in range(3):
        function("here", [weights, inputs, along], product)
    counts = []
    for call in (product, lambda: function("here", [weights, inputs, along], product)):
        with Counted() as counted:
            call()
        counts.append(sum(name == "mm" for name in counted.names))
    assert counts == [4, 3]


def times(given: Tensor, factor: Tensor | float) -> Callable[[], Tensors]:
    return lambda: [given * factor]


def first(found: Tensors) -> Tensor:
    assert found[0] is not None
    return found[0]


def test_what_does_not_change_is_read_where_it_lies() -> None:
    constant, call = torch.ones(2), Traced()
    for step in range(5):
        constant.fill_(float(step))
        given = torch.tensor([1.0, 2.0])
        assert torch.equal(first(call("here", [given], times(given, constant))), given * step)
    assert call.traces


def test_what_is_written_into_on_the_way_is_written_again() -> None:
    call = Traced()
    for _ in range(5):
        given = torch.randn(2, 3)

        def function(given: Tensor = given) -> Tensors:
            doubled = given.exp()
            view = doubled[0]
            doubled.mul_(2.0)
            return [torch.cat([view + 1.0, given.exp()[1]])]

        expected = torch.cat([2.0 * given[0].exp() + 1.0, given[1].exp()])
        assert torch.equal(first(call("here", [given], function)), expected)
    assert call.traces


def test_each_shape_has_a_trace_of_its_own() -> None:
    call = Traced()
    for rows in (2, 3, 2, 3, 2, 3, 2, 3):
        given = torch.randn(rows)
        found = call(rows, [given], times(given, float(rows)))
        assert torch.equal(first(found), given * rows)
    assert set(call.traces) == {2, 3}


def written_into(given: Tensor) -> Tensors:
    given.mul_(2.0)
    return [given + 1.0]


def written_into_one_of_two(given: Tensor) -> Tensors:
    one, other = given + 1.0, given + 1.0
    return [one.mul_(2.0), other]


def drawn(given: Tensor) -> Tensors:
    return [given * torch.rand(())]


def decided(given: Tensor) -> Tensors:
    return [given if float(given.sum()) > 0.0 else -given]


def chosen(given: Tensor) -> Tensors:
    return [given[given > 0.0]]


@pytest.mark.parametrize(
    "function", [written_into, written_into_one_of_two, drawn, decided, chosen]
)
def test_what_a_trace_would_not_repeat_is_not_traced(
    function: Callable[[Tensor], Tensors],
) -> None:
    calls: list[int] = []
    call = Traced()
    for _ in range(6):
        given = torch.randn(3)

        def noted(given: Tensor = given) -> Tensors:
            calls.append(1)
            return function(given)

        call("here", [given], noted)
    assert not call.traces
    assert len(calls) == 6


def test_a_trace_that_gives_something_else_is_not_used() -> None:
    """Here, of a function that depends on what it was not said to depend on."""
    call, ones = Traced(), torch.ones(2)
    for step in range(6):
        assert float(first(call("here", [ones], times(ones, float(step))))[0]) == step
    assert not call.traces


@pytest.mark.parametrize("changes_at", [8, 9, 31, 32, 100])
def test_a_function_that_changes_after_it_was_traced_is_noticed(changes_at: int) -> None:
    call, ones = Traced(), torch.ones(2)
    noticed = None
    for step in range(1, 600):
        factor = 2.0 if step < changes_at else 3.0
        try:
            call("here", [ones], times(ones, factor))
        except Restart:
            noticed = step
            break
    assert noticed is not None
    assert changes_at <= noticed <= 4 * changes_at
    assert torch.equal(first(call("here", [ones], times(ones, 5.0))), 5.0 * ones)
    assert not call.traces


def test_a_later_run_traces_from_its_first_call() -> None:
    calls: list[int] = []
    call, given = Traced(), torch.tensor([1.0, 2.0])

    def doubled() -> Tensors:
        calls.append(1)
        return [given * 2.0]

    counts = []
    for _ in range(3):
        call.begin()
        for _ in range(7):
            assert torch.equal(first(call("here", [given], doubled)), 2.0 * given)
        counts.append(len(calls))
        calls.clear()
    assert counts == [2, 1, 1]


@pytest.mark.parametrize("captured", [False, True])
def test_a_later_run_does_not_keep_the_numbers_of_the_last(captured: bool) -> None:
    """A number that changed is a new function; a captured tensor is compared in every run."""
    call, given = Traced(), torch.tensor([1.0, 2.0])
    for number in (2.0, 3.0, 3.0, 2.0):
        factor = torch.tensor(number) if captured else number
        call.begin()
        for _ in range(6):
            assert torch.equal(first(call("here", [given], times(given, factor))), given * number)
        assert call.traces


def test_a_function_that_changes_in_a_later_run_is_noticed() -> None:
    call, ones = Traced(), torch.ones(2)
    for _ in range(2):
        call.begin()
        for _ in range(7):
            call("here", [ones], times(ones, 2.0))
    with pytest.raises(Restart):
        call("here", [ones], times(ones, 3.0))


def test_check_compares_in_the_next_call() -> None:
    call, ones = Traced(), torch.ones(2)
    for _ in range(3):
        call("here", [ones], times(ones, 2.0))
    assert torch.equal(first(call("here", [ones], times(ones, 3.0))), 2.0 * ones)
    call.check()
    with pytest.raises(Restart):
        call("here", [ones], times(ones, 3.0))


def test_a_run_starts_without_the_constants_of_the_last() -> None:
    """The code is shared by both runs; the tensor that the function captured is another."""
    call, given = Traced(), torch.tensor([1.0, 2.0])
    for captured in (torch.ones(2), 3.0 * torch.ones(2)):
        call.begin()
        for _ in range(4):
            found = first(call("here", [given], times(given, captured)))
            assert torch.equal(found, given * captured)
        assert call.traces


@pytest.mark.parametrize(
    "read",
    [Tensor.tolist, lambda tensor: tensor.numpy().sum(), Tensor.item, int, float, bool],
    ids=["tolist", "numpy", "item", "int", "float", "bool"],
)
def test_a_function_that_reads_values_into_python_is_not_traced(
    read: Callable[[Tensor], Any],
) -> None:
    call, weights = Traced(), torch.ones(2)
    for step in range(1, 8):
        length = torch.tensor(step)

        def scaled(length: Tensor = length) -> Tensors:
            return [weights * read(length)]

        expected = weights * read(length)
        assert torch.equal(first(call("here", [weights, length], scaled)), expected)
    assert not call.traces
