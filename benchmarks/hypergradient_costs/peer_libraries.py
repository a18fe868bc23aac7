"""The same hypergradient by other libraries, which are no dependencies of drmad."""

import subprocess
from collections.abc import Callable

import torch
from torch import Tensor

from hypergradient_costs.mnist_mlp import ALPHA, GAMMA
from hypergradient_costs.plain_training import Plain


def by_higher(plain: Plain) -> Tensor:
    import higher

    raw = plain.raw.clone().requires_grad_()
    rate = ALPHA * (1.0 - GAMMA)
    optimizer = torch.optim.SGD(plain.model.parameters(), lr=rate, momentum=GAMMA)
    with higher.innerloop_ctx(plain.model, optimizer) as (model, unrolled):
        for step in range(plain.steps):
            unrolled.step(plain.loss(model, step, raw))
        return torch.autograd.grad(plain.outer(model), raw)[0]


def by_torchopt(plain: Plain) -> Tensor:
    import torchopt

    raw = plain.raw.clone().requires_grad_()
    rate = ALPHA * (1.0 - GAMMA)
    optimizer = torchopt.MetaSGD(plain.model, lr=rate, momentum=GAMMA)
    for step in range(plain.steps):
        optimizer.step(plain.loss(plain.model, step, raw))
    return torch.autograd.grad(plain.outer(plain.model), raw)[0]


PEERS: dict[str, Callable[[Plain], Tensor]] = {"higher": by_higher, "torchopt": by_torchopt}


def versions(python: str | None) -> dict[str, str]:
    versions: dict[str, str] = {"torch": torch.__version__}
    if python:
        code = (
            "from importlib.metadata import version; "
            f"print(*(n + ' ' + version(n) for n in {list(PEERS)}), sep='\\n')"
        )
        done = subprocess.run([python, "-c", code], capture_output=True, text=True)
        versions |= {line.split()[0]: line.split()[1] for line in done.stdout.splitlines()}
    return versions
