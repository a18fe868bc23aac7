"""A gradient and a Hessian-vector product in four forms: eager, own trace, make_fx, Inductor."""

import argparse
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from statistics import median
from typing import Any, cast

import torch
from torch import Tensor, nn

from drmad_workers.catalog import build_problem
from drmad_workers.objective.autograd.recorded_operations import OperationRecorder

Form = Callable[..., Sequence[Tensor]]


def traces(options: argparse.Namespace) -> dict[str, Any]:
    """Seconds of one gradient and one Hessian-vector product, eager, traced and compiled."""
    rounds, calls = (5, 20) if options.quick else (15, 100)
    rows = []
    torch.manual_seed(0)
    model = build_problem({"name": "mlp", "hidden": [50, 50, 50]}, {"name": "digits"}).model
    assert isinstance(model, nn.Sequential)
    model[0] = nn.Linear(784, 50)
    for batch in (50, 100):
        inputs, targets = torch.rand(batch, 784), torch.randint(10, (batch,))
        parameters = [parameter.detach().clone() for parameter in model.parameters()]
        directions = [torch.randn_like(parameter) for parameter in parameters]
        for what, work in (("gradient", gradient_of(model)), ("product", product_of(model))):
            given = [*parameters, *directions, inputs, targets]
            forms, seconds = forms_of(work, given)
            expected = work(*given)
            taken: dict[str, list[float]] = {name: [] for name in forms}
            for _ in range(rounds):
                for name, form in forms.items():
                    started = time.perf_counter()
                    with torch.no_grad() if name != "eager" else nullcontext():
                        for _ in range(calls):
                            found = form(*given)
                    taken[name].append((time.perf_counter() - started) / calls)
                    pairs = zip(found, expected, strict=True)
                    assert all(torch.allclose(one, other, atol=1e-5) for one, other in pairs)
            base = median(taken["eager"])
            rows += [
                {
                    "what": what,
                    "batch": batch,
                    "form": name,
                    "microseconds": 1e6 * median(each),
                    "ratio": median(each) / base,
                    "preparation_seconds": seconds.get(name, 0.0),
                }
                for name, each in taken.items()
            ]
    return {
        "rows": rows,
        "first uses": {name: first_use(code) for name, code in FIRST_USES.items()},
    }


def gradient_of(model: nn.Module) -> Form:
    """The gradient by the parameters as a function of parameters, directions, inputs, targets."""
    names = [name for name, _ in model.named_parameters()]

    def gradient(*given: Tensor, create_graph: bool = False) -> Sequence[Tensor]:
        leaves = given[: len(names)]
        if not create_graph:
            leaves = tuple(part.detach().requires_grad_() for part in leaves)
        named = dict(zip(names, leaves, strict=True))
        outputs = torch.func.functional_call(model, named, (given[-2],))
        loss = nn.functional.cross_entropy(outputs, given[-1])
        return torch.autograd.grad(loss, leaves, create_graph=create_graph)

    return gradient


def product_of(model: nn.Module) -> Form:
    """The Hessian-vector product along the directions; see `gradient_of`."""
    gradient, count = gradient_of(model), len(list(model.parameters()))

    def product(*given: Tensor) -> Sequence[Tensor]:
        leaves = [part.detach().requires_grad_() for part in given[:count]]
        gradients = gradient(*leaves, *given[count:], create_graph=True)
        return torch.autograd.grad(gradients, leaves, given[count : 2 * count])

    return product


def forms_of(work: Form, given: Sequence[Tensor]) -> tuple[dict[str, Form], dict[str, float]]:
    """The function in every form, and the seconds that each took to make."""
    forms: dict[str, Form] = {"eager": work}
    seconds: dict[str, float] = {}
    for name, make in (("own trace", own_trace), ("make_fx", by_make_fx), ("compiled", compiled)):
        started = time.perf_counter()
        forms[name] = make(work, given)
        seconds[name] = time.perf_counter() - started
    return forms, seconds


def own_trace(work: Form, given: Sequence[Tensor]) -> Form:
    recorder = OperationRecorder(given)
    with recorder:
        outputs = work(*given)
    trace = recorder.trace(outputs, {})
    assert trace is not None
    return lambda *inputs: cast(Sequence[Tensor], trace(inputs))  # every parameter has a gradient


def by_make_fx(work: Form, given: Sequence[Tensor]) -> Form:
    """make_fx, without dead code and with common subexpressions computed once."""
    from torch._functorch.compile_utils import fx_graph_cse
    from torch.fx.experimental.proxy_tensor import make_fx

    module = make_fx(work)(*given)
    graph = fx_graph_cse(module.graph)
    graph.eliminate_dead_code()
    return torch.fx.GraphModule(module, graph).forward


def compiled(work: Form, given: Sequence[Tensor]) -> Form:
    """Inductor's code of the graph that make_fx traced.

    torch.compile of the function itself stops at the product: AOTAutograd has no double backward.
    """
    form: Form = torch.compile(by_make_fx(work, given))
    with torch.no_grad():
        form(*given)
    return form


FIRST_USES = {
    "own trace": (
        "from drmad_workers.objective.autograd.recorded_operations import OperationRecorder\n"
        "with OperationRecorder([given]) as recorder:\n    recorder.trace([given.sin()], {})"
    ),
    "make_fx": (
        "from torch.fx.experimental.proxy_tensor import make_fx\nmake_fx(torch.sin)(given)"
    ),
    "compiled": "torch.compile(torch.sin)(given)",
}


def first_use(code: str) -> dict[str, float]:
    """Seconds and MB of resident memory that the first use takes beyond importing torch."""
    program = f"""
import time
from pathlib import Path
import torch

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6

given = torch.ones(2)
given.sin()
before, started = resident(), time.perf_counter()
{code}
print(time.perf_counter() - started, resident() - before)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    seconds, megabytes = map(float, done.stdout.split())
    return {"seconds": seconds, "megabytes": megabytes}


def trace_lines(part: Mapping[str, Any]) -> list[str]:
    """The part's lines of the report."""
    lines = [
        "",
        "### Traces: one call of the MLP",
        "",
        "| | minibatch | form | microseconds | times eager | preparation, s |",
        "|---|---|---|---|---|---|",
    ]
    for row in part["rows"]:
        lines.append(
            f"| {row['what']} | {row['batch']} | {row['form']} | {row['microseconds']:.0f} "
            f"| {row['ratio']:.2f} | {row['preparation_seconds']:.3f} |"
        )
    lines += ["", "| first use | s | MB |", "|---|---|---|"]
    for name, cost in part["first uses"].items():
        lines.append(f"| {name} | {cost['seconds']:.2f} | {cost['megabytes']:.0f} |")
    return lines
