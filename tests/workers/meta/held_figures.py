"""Three problems whose reported figures are held against retraining by plain PyTorch.

The retrainings share nothing with what reports: an ordinary loop with an optimizer of torch, its
own initial weights and its own shuffling.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from drmad_workers import (
    L2,
    LearningRate,
    MetaConfig,
    Problem,
    Replay,
    SampleWeight,
    TrainingConfig,
    TuningResult,
    tune,
)
from drmad_workers.catalog import load_data
from drmad_workers.hyperparameters.base import Kind

Pair = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Case:
    """What is tuned, and how one minibatch of a plain retraining is trained.

    Attributes:
        loss: (model, values by name in the user's units, inputs, targets, rows) -> training loss.
        optimizer: (model, values) -> torch's optimizer.
        held_out: (outputs, targets) -> the loss of every row.
    """

    data: Callable[[int], tuple[Pair, Pair, Pair]]
    model: Callable[[], nn.Module]
    kinds: tuple[Kind, ...]
    training: TrainingConfig
    meta: MetaConfig
    loss: Callable[[nn.Module, Mapping[str, Tensor], Tensor, Tensor, Tensor], Tensor]
    optimizer: Callable[[nn.Module, Mapping[str, Tensor]], torch.optim.Optimizer]
    held_out: Callable[[Tensor, Tensor], Tensor]
    transform: Callable[[Tensor], Tensor]


def classes(outputs: Tensor, targets: Tensor) -> Tensor:
    return nn.functional.cross_entropy(outputs, targets, reduction="none")


def squares(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs - targets).square().mean(dim=1)


def digits(seed: int, noise: float, train: int) -> tuple[Pair, Pair, Pair]:
    sizes = {"train": train, "valid": 150, "test": 300}
    split = load_data("digits", {**sizes, "seed": seed, "label_noise": noise})
    assert split.test is not None
    return split.train, split.valid, split.test


def diabetes(seed: int) -> tuple[Pair, Pair, Pair]:
    """scikit-learn's table: 442 rows, ten numbers, one number to predict; all standardised."""
    from sklearn.datasets import load_diabetes

    inputs, targets = (
        np.asarray(part, dtype=np.float32) for part in load_diabetes(return_X_y=True)
    )
    order = np.random.default_rng(seed).permutation(len(inputs))
    x = torch.from_numpy((inputs - inputs.mean(0)) / inputs.std(0))[order]
    y = torch.from_numpy((targets - targets.mean()) / targets.std())[order, None]
    return (x[:200], y[:200]), (x[200:300], y[200:300]), (x[300:], y[300:])


def net(inputs: int, hidden: int, outputs: int) -> Callable[[], nn.Module]:
    return lambda: nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, outputs))


def sgd(model: nn.Module, values: Mapping[str, Tensor]) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)


def adamw(model: nn.Module, values: Mapping[str, Tensor]) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.01)


def sgd_per_layer(model: nn.Module, values: Mapping[str, Tensor]) -> torch.optim.Optimizer:
    groups = [
        {"params": [parameter], "lr": float(rate)}
        for parameter, rate in zip(model.parameters(), values["learning_rate"], strict=True)
    ]
    return torch.optim.SGD(groups, momentum=0.9)


def weighted(
    model: nn.Module, values: Mapping[str, Tensor], inputs: Tensor, targets: Tensor, rows: Tensor
) -> Tensor:
    return (values["sample_weight"][rows] * classes(model(inputs), targets)).mean()


def penalised(
    model: nn.Module, values: Mapping[str, Tensor], inputs: Tensor, targets: Tensor, rows: Tensor
) -> Tensor:
    matrices = [parameter for parameter in model.parameters() if parameter.ndim == 2]
    terms = [c * w.square().sum() for c, w in zip(values["l2"], matrices, strict=True)]
    return classes(model(inputs), targets).mean() + torch.stack(terms).sum()


def plain(
    model: nn.Module, values: Mapping[str, Tensor], inputs: Tensor, targets: Tensor, rows: Tensor
) -> Tensor:
    return squares(model(inputs), targets).mean()


CASES = {
    "sample weights of digits, SGD": Case(
        data=lambda seed: digits(seed, 0.4, 300),
        model=net(64, 32, 10),
        kinds=(SampleWeight(),),
        training=TrainingConfig("sgd", 60, 50, learning_rate=0.1, momentum=0.9),
        meta=MetaConfig(learning_rate=0.3, iterations=20),
        loss=weighted,
        optimizer=sgd,
        held_out=classes,
        transform=torch.sigmoid,
    ),
    "penalties per layer, AdamW": Case(
        data=lambda seed: digits(seed, 0.0, 200),
        model=net(64, 32, 10),
        kinds=(L2(per="layer", init=-7.0),),
        training=TrainingConfig("adamw", 80, 50, learning_rate=3e-3, weight_decay=0.01),
        meta=MetaConfig(learning_rate=0.3, iterations=20),
        loss=penalised,
        optimizer=adamw,
        held_out=classes,
        transform=torch.exp,
    ),
    "learning rates per layer of a table, SGD": Case(
        data=diabetes,
        model=net(10, 32, 1),
        kinds=(LearningRate(per="layer"),),
        training=TrainingConfig("sgd", 100, 20, learning_rate=0.01, momentum=0.9),
        meta=MetaConfig(learning_rate=0.1, iterations=20),
        loss=plain,
        optimizer=sgd_per_layer,
        held_out=squares,
        transform=torch.exp,
    ),
}


def tuned(case: Case, seed: int) -> TuningResult:
    """The result of the engine; data, initial weights and minibatches are those of the seed."""
    train, valid, test = case.data(seed)
    torch.manual_seed(seed)
    problem = Problem(case.model(), train, valid, test, loss=case.held_out, initialize="reset")
    return tune(problem, case.kinds, case.training, Replay(), case.meta, seed=seed)


def retrained(case: Case, seed: int, best: Mapping[str, Tensor], count: int) -> list[float]:
    """The validation losses of so many ordinary trainings at the tuned hyperparameters."""
    (inputs, targets), (valid_inputs, valid_targets), _ = case.data(seed)
    values = {name: case.transform(value) for name, value in best.items()}
    losses = []
    for run in range(count):
        torch.manual_seed(1_000_000 + 1000 * seed + run)
        model = case.model()
        optimizer = case.optimizer(model, values)
        rows = shuffled(len(inputs), case.training.batch_size)
        for _ in range(case.training.steps):
            batch = next(rows)
            optimizer.zero_grad()
            loss = case.loss(model, values, inputs[batch], targets[batch], batch)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        with torch.no_grad():
            losses.append(float(case.held_out(model(valid_inputs), valid_targets).mean()))
    return losses


def shuffled(rows: int, batch_size: int) -> Iterator[Tensor]:
    """Minibatches of shuffled epochs; as in a DataLoader with drop_last."""
    while True:
        order = torch.randperm(rows)
        for first in range(0, rows - batch_size + 1, batch_size):
            yield order[first : first + batch_size]
