"""No proof fails on jobs that are right."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from drmad_client.records.job import PreflightReport
from drmad_client.spec.job import JobSpec
from drmad_client.spec.text import job_file
from drmad_workers import Batch, Hyperparameter, Problem, spec_adapter
from drmad_workers.catalog import Places
from drmad_workers.preflight.short_run import preflight
from tests.workers.preflight.proofs.jobs import (
    CLASSES,
    L2,
    Calls,
    examples,
    failed,
    job,
    net,
    proofs,
    stated,
)
from tests.workers.preflight.proofs.test_second_derivatives import mixed
from tests.workers.preflight.proofs.test_training import Single

ROOT = Path(__file__).parents[4]


def pooled(*between: nn.Module) -> Problem:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), *between, nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(16, CLASSES),
    )  # fmt: skip
    train, valid = examples(60, 0, 1, 8, 8), examples(30, 1, 1, 8, 8)
    return Problem(model, train, valid, initialize="reset")


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.steps, self.head = nn.LSTM(2, 6, batch_first=True), nn.Linear(6, CLASSES)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(self.steps(inputs.view(-1, 2, 2))[0][:, -1])  # type: ignore[no-any-return]


def texts() -> Problem:
    """Rows of several lengths, which a collate function pads to those of their minibatch."""
    torch.manual_seed(0)
    inputs, targets = examples(90, 0)
    items = [
        {"x": row[: 2 + number % 3], "label": target}
        for number, (row, target) in enumerate(zip(inputs, targets, strict=True))
    ]

    def collate(items: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        inputs = nn.utils.rnn.pad_sequence([item["x"] for item in items], batch_first=True)
        missing = torch.zeros(len(items), 4 - inputs.shape[1])
        labels = torch.stack([item["label"] for item in items])
        return {"input": torch.cat([inputs, missing], 1), "labels": labels, "x": inputs}

    return Problem(
        net(), items[:60], items[60:], collate_fn=collate,
        loss=lambda outputs, content: nn.functional.cross_entropy(
            outputs, content["labels"], reduction="none"
        ),
    )  # fmt: skip


def slopes() -> Problem:
    """Losses that take derivatives by the inputs, as physics-informed networks do."""

    def residual(forward: nn.Module, values: Mapping[str, Tensor], batch: Batch) -> Tensor:
        inputs = batch.inputs.clone().requires_grad_()
        (slope,) = torch.autograd.grad(forward(inputs).sum(), inputs, create_graph=True)
        defect: Tensor = slope.square().mean()
        return defect + nn.functional.cross_entropy(forward(inputs), batch.targets)

    return stated(inner_loss=residual, outer_loss=residual)


def table() -> Problem:
    """Embeddings with a padding row, which the data have."""
    model = Calls(lambda module, codes: module.last(module.table(codes).mean(1)))
    model.table, model.last = nn.Embedding(5, 4, padding_idx=0), nn.Linear(4, CLASSES)
    codes = [(examples(rows, seed)[0].abs() * 2).long().clamp_max(4) for rows, seed in ROWS]
    targets = [examples(rows, seed)[1] for rows, seed in ROWS]
    train, valid = zip(codes, targets, strict=True)
    return Problem(model, train, valid)


ROWS = ((60, 0), (30, 1))


def wide() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(4, 200), nn.ReLU(), nn.Linear(200, 200), nn.ReLU(), nn.Linear(200, CLASSES)
    )


def mixing() -> Problem:
    return stated(inner_loss=mixed, hyperparameters={"mixing": Hyperparameter(torch.eye(CLASSES))})


ADAM: dict[str, Any] = {"optimizer": "adam", "learning_rate": 0.01}
FINITE = {"method": "stored", "hvp": "finite_difference"}
Case = tuple[Callable[[], Problem], Callable[[], JobSpec]]
CASES: dict[str, Case] = {
    "smooth": (stated, job),
    "relu": (lambda: stated(net(nn.ReLU())), job),
    "many kinks": (lambda: stated(wide()), job),
    "max pooling": (pooled, job),
    "group norm": (lambda: pooled(nn.GroupNorm(2, 4)), job),
    "dropout": (lambda: stated(net(nn.Dropout(0.3), nn.Tanh())), job),
    "bfloat16": (lambda: stated(net(nn.ReLU())), lambda: job(precision="bfloat16")),
    "float32 only": (lambda: stated(Single()), job),
    "lstm": (lambda: stated(Recurrent()), job),
    "pretrained": (lambda: stated(initialize=None), job),
    "adam": (lambda: stated(net(nn.ReLU())), lambda: job(**ADAM)),
    "l1 and l2": (
        stated,
        lambda: job({"kind": "l1", "per": "unit"}, {"kind": "l2", "per": "weight"}),
    ),
    "padded texts": (texts, lambda: job({"kind": "sample_weight"}, L2)),
    "derivatives by the inputs": (slopes, job),
    "padding": (table, job),
    "spectral norm by a hook": (
        lambda: stated(net(nn.utils.spectral_norm(nn.Linear(5, 5)), nn.Tanh())),
        job,
    ),
    "examples": (stated, lambda: job({"kind": "sample_weight"})),
    "classes": (stated, lambda: job({"kind": "loss_weight"})),
    "rates": (
        stated,
        lambda: job({"kind": "learning_rate", "per": "step_and_layer"}, {"kind": "momentum"}),
    ),
    "rates of adam": (
        stated,
        lambda: job(
            {"kind": "learning_rate", "per": "step"},
            {"kind": "momentum", "per": "layer"},
            {"kind": "weight_decay", "per": "layer", "init": -3.0},
            **ADAM,
        ),
    ),
    "damped rates": (
        stated,
        lambda: job(
            {"kind": "learning_rate", "per": "layer"},
            {"kind": "momentum", "per": "step"},
            optimizer="damped_sgd",
        ),
    ),
    "weight decay": (
        stated,
        lambda: job(
            {"kind": "weight_decay", "per": "group", "groups": ["*.bias"], "init": -3.0},
            optimizer="adamw",
            learning_rate=0.01,
        ),
    ),
    "init_scale": (stated, lambda: job({"kind": "init_scale"})),
    "training_data": (stated, lambda: job({"kind": "training_data"})),
    "tensor": (mixing, lambda: job({"kind": "tensor", "name": "mixing"}, L2)),
    "finite differences": (stated, lambda: job(hypergradient=FINITE)),
    "finite differences, kinks": (
        lambda: stated(net(nn.ReLU())),
        lambda: job(hypergradient=FINITE),
    ),
    "reversible": (
        stated,
        lambda: job(hypergradient={"method": "reversible"}, optimizer="damped_sgd"),
    ),
    "implicit": (stated, lambda: job(hypergradient={"method": "implicit"})),
    "one_step": (stated, lambda: job(hypergradient={"method": "one_step"})),
    "gauss_newton": (
        stated,
        lambda: job(hypergradient={"method": "shortcut", "curvature": "gauss_newton"}),
    ),
    "three steps": (stated, lambda: job(steps=3, batch_size=60)),
}


@pytest.mark.parametrize("name", CASES)
def test_a_job_that_is_right_passes(name: str) -> None:
    build, spec = CASES[name]
    found = proofs(build(), spec())
    assert list(found) == [
        "repeatable", "training", "second_derivatives", "hypergradient", "unchanged"
    ]  # fmt: skip
    assert [proof for proof in found.values() if proof.result == "failed"] == []
    assert found["training"].result == found["unchanged"].result == "passed"
    assert all(proof.seconds > 0.0 for proof in found.values())


def test_batch_norm_with_a_penalty_passes() -> None:
    assert failed(stated(net(nn.BatchNorm1d(5), nn.Tanh())), job()) == []


@pytest.mark.parametrize(
    "model",
    [
        {"name": "mlp"},
        {"name": "mlp", "activation": "relu"},
        {"name": "cnn", "activation": "tanh"},
        {"name": "cnn"},
        {"name": "cnn", "batch_norm": True},
    ],
)
def test_every_model_of_the_catalog_passes(model: dict[str, Any]) -> None:
    spec = JobSpec.model_validate(
        {
            "problem": {"model": model, "data": {"name": "digits"}},
            "hyperparameters": [{"kind": "l2"}, {"kind": "sample_weight"}],
            "training": {"steps": 100, "batch_size": 50},
        }
    )
    assert failed(spec_adapter.problem(spec, None, None), spec) == []


RECIPES: list[dict[str, Any]] = [
    {
        "optimizer": {"name": "sgd", "momentum": 0.5, "nesterov": True},
        "schedule": {"name": "cosine", "warmup": 20},
        "groups": [{"match": "*.bias", "weight_decay": 0.0}],
        "clip_norm": 0.3,
        "accumulate": 2,
    },
    {
        "optimizer": {"name": "adamw", "weight_decay": 0.1, "learning_rate": 0.01},
        "schedule": {"name": "table", "factors": [1.0] * 60 + [0.1] * 40},
        "groups": [{"match": "0.weight", "frozen": True}],
        "clip_value": 0.01,
    },
]


@pytest.mark.parametrize("training", RECIPES, ids=["sgd", "adamw"])
def test_the_usual_recipe_passes(training: dict[str, Any]) -> None:
    data = {"name": "digits", "train": 200, "valid": 100, "test": 50}
    spec = JobSpec.model_validate(
        {
            "problem": {"model": {"name": "mlp", "hidden": [6]}, "data": data},
            "hyperparameters": [
                {"kind": "sample_weight"},
                {"kind": "learning_rate", "per": "group"},
            ],
            "training": training | {"steps": 100, "batch_size": 10},
            "hypergradient": {"method": "stored"},
        }
    )
    report = PreflightReport.model_validate(preflight(spec))
    assert [proof for proof in report.proofs if proof.result != "passed"] == []


@pytest.mark.parametrize("name", ["clean-digits", "clean-mnist", "mnist-l2"])
def test_every_example_passes(name: str, request: pytest.FixtureRequest) -> None:
    roots = request.getfixturevalue("mnist_roots") if "mnist" in name else []
    spec = JobSpec.model_validate(job_file.read(ROOT / "examples" / f"{name}.yaml"))
    report = PreflightReport.model_validate(preflight(spec, Places(roots)))
    assert [proof for proof in report.proofs if proof.result != "passed"] == []


def test_the_example_of_an_own_model_passes() -> None:
    folder = ROOT / "examples" / "own-model"
    fields = job_file.read(folder / "job.yaml")
    fields["problem"]["code"] = f"sha256:{'0' * 64}"
    report = PreflightReport.model_validate(preflight(JobSpec.model_validate(fields), code=folder))
    assert [proof for proof in report.proofs if proof.result == "failed"] == []


def test_proofs_leave_everything_as_it_was() -> None:
    problem, spec = stated(net(nn.BatchNorm1d(5), nn.Dropout(0.2), nn.Tanh())), job()
    tuner = spec_adapter.tuner(spec, built=problem)
    first = tuner.evaluate(tuner.initial_values(), 0)
    state = torch.random.get_rng_state()
    given = {name: value.clone() for name, value in problem.model.state_dict().items()}
    assert proofs(problem, spec)
    assert torch.equal(torch.random.get_rng_state(), state)
    for name, value in problem.model.state_dict().items():
        assert value.dtype == given[name].dtype
        assert torch.equal(value, given[name]), name
    second = tuner.evaluate(tuner.initial_values(), 0)
    assert torch.equal(first.hypergradient["l2"], second.hypergradient["l2"])
