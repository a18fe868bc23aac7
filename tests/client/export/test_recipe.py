"""The recipe as a file, where drmad cannot be imported, against the engine."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from drmad_client.export.recipe import NotPlain, code_files, recipe, shortcomings
from drmad_client.export.recipe_folder import retraining_files
from drmad_client.files.code_archive import pack
from drmad_client.spec.job import JobSpec
from drmad_client.spec.side_runs.retraining import RetrainSpec
from drmad_workers import spec_adapter
from drmad_workers.catalog import Places
from drmad_workers.hyperparameters.groups import frozen
from drmad_workers.objective.parameters.weight_draw import draw_weights
from drmad_workers.random_streams import WEIGHTS, seed_of
from drmad_workers.retraining.from_spec import retrainer
from drmad_workers.retraining.recipe_data import recipe_data
from drmad_workers.retraining.retrainer import FIRST_DRAW

ROWS = 60
DIGITS = {"name": "digits", "train": ROWS, "valid": 20, "test": 40}
SPEC: dict[str, Any] = {
    "problem": {"model": {"name": "mlp", "hidden": [12]}, "data": DIGITS},
    # Every minibatch has all rows, so that its order has no effect.
    "training": {"steps": 12, "batch_size": ROWS, "precision": "float64"},
    "hyperparameters": [{"kind": "sample_weight"}],
}
FIGURES = """
import runpy
from pathlib import Path
from safetensors.torch import load_file
recipe = runpy.run_path("recipe.py")
data = load_file("data.safetensors") if Path("data.safetensors").exists() else None
problem = recipe["stated_problem"](data)
problem.model.double().load_state_dict(load_file("start.safetensors"))
recipe["train"](problem)
found = recipe["figures"](problem)
"""
OUTSIDE = f"""
import json, sys
for name in ("drmad_client", "drmad_workers", "drmad_service"):
    sys.modules[name] = None  # importing it now fails
{FIGURES}
print(json.dumps(found))
"""
TRANSFORMS: dict[str, Callable[[Tensor], Tensor]] = {
    "sample_weight": torch.sigmoid,
    "momentum": torch.sigmoid,
    "tensor": lambda value: value,
    "training_data": lambda value: value,
}


def outside(folder: Path, *arguments: str) -> str:
    ran = subprocess.run(
        [sys.executable, *arguments], cwd=folder, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def hidden(folder: Path) -> Any:
    """The figures of a file without own code, in this process while it cannot import drmad."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name in [*sys.modules]:
            if name.startswith("drmad_"):
                patch.setitem(sys.modules, name, None)
        scope: dict[str, Any] = {}
        exec(FIGURES, scope)
        return scope["found"]


def changed(**changes: Any) -> dict[str, Any]:
    """SPEC with other fields; those of the training are added to its own."""
    return SPEC | changes | {"training": SPEC["training"] | changes.get("training", {})}


def agree(
    fields: dict[str, Any], folder: Path, asked: dict[str, Any] | None = None, code: str = ""
) -> dict[str, float]:
    """Requires the engine's test figures of the file; returns them.

    Args:
        code: the module my_problem of the user's own code.
    """
    own = folder / "own"
    if code:
        own.mkdir()
        (own / "my_problem.py").write_text(code)
        archive = pack(own)
        problem = {"entrypoint": "my_problem:build", "code": archive.name, "options": {"rows": 60}}
        fields = fields | {"problem": problem}
        for name, content in code_files(archive.content).items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(content)
    spec = JobSpec.model_validate(fields)
    request = RetrainSpec.model_validate(asked or {})
    sys.modules.pop("my_problem", None)
    place = own if code else None
    tuner = spec_adapter.tuner(spec, 0, Places(), code=place)
    draw = torch.Generator().manual_seed(0)
    values, tuned = {}, {}
    for each, (name, bound) in zip(
        spec.hyperparameters, tuner.hyperparameters.items(), strict=True
    ):
        noise = torch.randn(bound.shape, generator=draw, dtype=torch.float64)
        values[name] = bound.initial + 0.3 * noise
        tuned[name] = TRANSFORMS.get(each.kind, torch.exp)(values[name])
    tuner.close()
    made = retrainer(spec, request, values, None, Places(), place)
    expected = made.train(made.runs[1])
    assert expected is not None

    save_file(tuned, folder / "hyperparameters.safetensors")
    (folder / "recipe.py").write_text(recipe(spec, request, "job_1"))
    built = spec_adapter.problem(spec, Places(), place)
    if not code:
        save_file(recipe_data(spec, Places()), folder / "data.safetensors")
    model = built.model.double()
    torch.manual_seed(seed_of(WEIGHTS, spec.seed, FIRST_DRAW, 0))
    held = frozen(model, spec_adapter.training(spec).groups, copied=False)
    with torch.no_grad(), held:
        draw_weights(model, built.initialize)
    save_file(model.state_dict(), folder / "start.safetensors")
    found: dict[str, float]
    found = json.loads(outside(folder, "-c", OUTSIDE)) if code else hidden(folder)
    wanted = {n: v for n, v in expected[0].items() if n in found}
    assert wanted.keys() == found.keys()
    assert found == pytest.approx(wanted, rel=1e-6)
    return found


@pytest.mark.parametrize(
    ("changes", "asked"),
    [
        (
            {
                "training": {"schedule": {"name": "cosine", "warmup": 3}, "weight_decay": 0.01},
                "hyperparameters": [
                    {"kind": "sample_weight"},
                    {"kind": "l2"},
                    {"kind": "learning_rate", "per": "step"},
                ],
            },
            {"steps": 24},
        ),
        ({"training": {"optimizer": "damped_sgd", "batch_size": 50}}, {"drop_lowest": 10}),
        (
            {
                "problem": {"model": {"name": "cnn", "channels": [4], "batch_norm": True}}
                | {"data": DIGITS},
                "hyperparameters": [{"kind": "loss_weight"}, {"kind": "l1", "per": "layer"}],
            },
            {},
        ),
        (
            {
                "training": {"optimizer": "adamw", "learning_rate": 0.01, "clip_norm": 0.5}
                | {"accumulate": 2, "schedule": {"name": "step", "every": 4}}
                | {"groups": [{"match": "*bias", "weight_decay": 0.0}]},
                "hyperparameters": [{"kind": "weight_decay"}, {"kind": "init_scale"}],
            },
            {},
        ),
        (
            {
                "training": {"nesterov": True, "clip_value": 0.01}
                | {"groups": [{"match": "0.*", "learning_rate": 0.2}, {"match": "2.bias"}]},
                "hyperparameters": [
                    {"kind": "learning_rate", "per": "group"},
                    {"kind": "momentum", "per": "step_and_layer"},
                ],
            },
            {"steps": 9},
        ),
        (
            {
                "training": {"groups": [{"match": "1.*|0.*", "frozen": True}]},
                "hyperparameters": [{"kind": "sample_weight", "per": "class", "normalised": True}],
            },
            {},
        ),
        ({"hyperparameters": [{"kind": "training_data"}]}, {}),
    ],
    ids=["schedule", "dropped", "cnn", "adamw", "groups", "frozen", "inputs"],
)
def test_the_file_reaches_the_figures_of_the_engine_without_drmad(
    changes: dict[str, Any], asked: dict[str, Any], tmp_path: Path
) -> None:
    assert {"test_loss", "test_error"} == agree(changed(**changes), tmp_path, asked).keys()


@pytest.mark.parametrize(
    "training",
    [
        {"optimizer": "adam", "learning_rate": 0.01, "schedule": {"name": "one_cycle"}},
        pytest.param(
            {"optimizer": "rmsprop", "learning_rate": 0.01, "weight_decay": 0.01},
            marks=pytest.mark.full,
        ),
        pytest.param(
            {"optimizer": "lion", "learning_rate": 0.01, "schedule": {"name": "inverse_sqrt"}},
            marks=pytest.mark.full,
        ),
        {"optimizer": "muon", "learning_rate": 0.01, "nesterov": True, "weight_decay": 0.1},
        {"schedule": {"name": "table", "factors": [1.0, 0.1], "at": [0.0, 1.0]}},
    ],
    ids=["adam", "rmsprop", "lion", "muon", "table"],
)
def test_the_file_takes_the_steps_of_every_optimizer_and_schedule(
    training: dict[str, Any], tmp_path: Path
) -> None:
    agree(changed(training=training, hyperparameters=[{"kind": "learning_rate"}]), tmp_path)


OWN = """
import torch
from torch import nn
from torch.utils.data import Dataset

from drmad_workers import (
    AllRows, Hyperparameter, L2, Problem, StepRates, UpdateRule, error_rate, tune
)


class Heavy(UpdateRule):
    memory_rows = 1

    def update(self, step, weights, memory, gradient, rates):
        kept = rates.momentum * memory[0] + gradient
        return weights - rates.learning_rate * kept, (kept,)


class Rows(Dataset):
    def __init__(self, x, y):
        self.x, self.y = x, y

    def __len__(self):
        return len(self.y)

    def __getitem__(self, row):
        return {"x": self.x[row], "label": self.y[row]}


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(5, 3)

    def forward(self, x):
        return self.layer(x).tanh()


def inner_loss(forward, hyperparameters, batch):
    outputs, labels = forward(batch.content["x"]), batch.content["label"]
    losses = nn.functional.cross_entropy(outputs, labels, reduction="none")
    smooth = hyperparameters["strength"].square().sum() * outputs.square().mean()
    return (hyperparameters["sample_weight"][batch.index] * losses).mean() + smooth


def build(rows):
    x, y = torch.randn(rows + 40, 5), torch.randint(0, 3, (rows + 40,))
    return Problem(
        Net(), Rows(x[:rows], y[:rows]), Rows(x[rows:], y[rows:]), Rows(x[rows:], y[rows:]),
        loss=lambda outputs, content: nn.functional.cross_entropy(
            outputs, content["label"], reduction="none"
        ),
        hyperparameters={"strength": Hyperparameter(torch.full((1,), 0.5))},
        inner_loss=INNER,
        columns={"source": ["a", "b"] * (rows // 2)},
        metrics={
            "error": lambda outputs, content: error_rate(outputs, content["label"]),
            "spread": AllRows(lambda kept: kept.std(), lambda outputs, content: outputs[:, 0]),
        },
        targets=lambda content: content["label"],
        initialize="reset",
        optimizer=OPTIMIZER,
    )


if __name__ == "__main__":
    tune(build(60), [L2()])
"""


@pytest.mark.parametrize(
    ("inner", "optimizer", "changes"),
    [
        (
            "inner_loss",
            "None",
            {
                "hyperparameters": [
                    {"kind": "tensor", "name": "strength"},
                    {"kind": "sample_weight", "per": "source"},
                ]
            },
        ),
        (
            "None",
            "Heavy()",
            {
                "training": {"optimizer": "custom", "momentum": 0.5},
                "hyperparameters": [
                    {"kind": "sample_weight", "per": "source", "normalised": True},
                    {"kind": "loss_weight"},
                    {"kind": "momentum"},
                ],
            },
        ),
    ],
    ids=["inner_loss", "custom"],
)
def test_own_code_lies_beside_the_file_and_trains_without_drmad(
    inner: str, optimizer: str, changes: dict[str, Any], tmp_path: Path
) -> None:
    code = OWN.replace("INNER", inner).replace("OPTIMIZER", optimizer)
    found = agree(changed(**changes), tmp_path, code=code)
    assert found.keys() == {"test_loss", "test_error", "test_spread"}


def test_the_file_is_a_program_that_may_train_on_the_validation_rows_too(tmp_path: Path) -> None:
    agree(SPEC, tmp_path)
    spec, asked = JobSpec.model_validate(SPEC), RetrainSpec(with_validation=True, steps=60)
    (tmp_path / "recipe.py").write_text(recipe(spec, asked, "job_1"))
    printed = outside(tmp_path, "recipe.py", "data.safetensors", "--seeds", "2")
    figures = dict(line.split(" ")[:2] for line in printed.splitlines())
    assert 0.0 < float(figures["test_error"]) < 0.5
    assert (tmp_path / "model.pt").exists()


TEXTS = """
import torch
from drmad_workers import Problem
from drmad_workers.integrations import transformers
from transformers import BertConfig, BertForSequenceClassification


def build(rows):
    config = BertConfig(
        vocab_size=30, hidden_size=8, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=8, num_labels=2, attn_implementation="eager",
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )
    def part(count):
        return [
            {"input_ids": torch.randint(1, 30, (4 + row % 3,)), "labels": row % 2,
             "source": row % 3}
            for row in range(count)
        ]
    return transformers.problem(
        BertForSequenceClassification(config), part(rows), part(20), part(20), columns=["source"]
    )
"""


def test_a_model_of_transformers_trains_without_drmad(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    fields = changed(
        training={"optimizer": "adamw", "learning_rate": 0.01, "steps": 4},
        hyperparameters=[{"kind": "sample_weight", "per": "source"}],
    )
    assert {"test_loss", "test_error"} == agree(fields, tmp_path, code=TEXTS).keys()


def test_a_table_trains_without_drmad(tmp_path: Path) -> None:
    lines = ["size,colour,part,bought"]
    for row in range(100):
        part = "train" if row < ROWS else "valid" if row < 80 else "test"
        lines.append(f"{row % 7},{'red' if row % 3 else 'blue'},{part},{row % 2}")
    (tmp_path / "table.csv").write_text("\n".join(lines))
    data: dict[str, Any] = {"name": "table", "path": "table.csv", "target": "bought"}
    data |= {"split": "part"}
    data |= {"categorical": ["colour"], "task": "binary"}
    fields = changed(
        problem={"model": {"name": "tabular", "hidden": [6]}, "data": data},
        hyperparameters=[{"kind": "l2", "per": "layer"}],
    )
    agree_below(tmp_path, fields)


def agree_below(root: Path, fields: dict[str, Any]) -> None:
    """As `agree`, for a problem that reads a file below this data root."""
    with pytest.MonkeyPatch.context() as patch:
        roots = Places([root])
        patch.setattr(sys.modules[__name__], "Places", lambda: roots)
        agree(fields, root)


def test_arrays_of_a_file_train_without_drmad(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    inputs, targets, source = (
        draw.normal(size=(120, 5)),
        draw.integers(0, 3, 120),
        draw.integers(0, 2, 120),
    )
    np.savez(tmp_path / "rows.npz", inputs=inputs, targets=targets, source=source)
    sizes = {"train": ROWS, "valid": 20, "test": 40}
    data = {"name": "file", "path": "rows.npz", "standardize": True, **sizes}
    fields = changed(
        problem={"model": {"name": "mlp", "hidden": [6]}, "data": data},
        hyperparameters=[{"kind": "sample_weight", "per": "source"}],
    )
    agree_below(tmp_path, fields)


def test_the_folder_of_a_retraining_has_the_code_or_says_why_not(tmp_path: Path) -> None:
    (tmp_path / "my_problem.py").write_text("from drmad_workers import Problem\n")
    archive = pack(tmp_path)
    problem = {"entrypoint": "my_problem:build", "code": archive.name}
    spec = JobSpec.model_validate(SPEC | {"problem": problem})
    job: Any = SimpleNamespace(begun=spec, id="job_1")
    made: Any = SimpleNamespace(asked=RetrainSpec(), model_dump_json=lambda **_: "{}")
    files = retraining_files(job, made, {}, archive.content)
    assert files["code/my_problem.py"] == b"from drmad_workers import Problem\n"
    assert b"def train(" in files["recipe.py"]
    (tmp_path / "my_problem.py").write_text("import drmad_service\n")
    refused = retraining_files(job, made, {}, pack(tmp_path).content)["recipe.py"]
    assert b"does not replace drmad_service, which your code imports" in refused


WEIGHTED: dict[str, Any] = {"hyperparameters": [{"kind": "sample_weight"}]}
CNN = {"model": {"name": "cnn", "channels": [4]}, "data": DIGITS}


@pytest.mark.parametrize(
    ("changes", "most_lines"),
    [
        (WEIGHTED, 380),
        (WEIGHTED | {"training": {"optimizer": "adamw", "schedule": {"name": "cosine"}}}, 420),
        (WEIGHTED | {"problem": CNN}, 390),
        ({"hyperparameters": [{"kind": "l2"}, {"kind": "learning_rate", "per": "step"}]}, 470),
        ({"problem": {"entrypoint": "m:build", "code": f"sha256:{'0' * 64}"}}, 620),
    ],
    ids=["weights", "adamw", "cnn", "penalties", "code"],
)
def test_the_file_has_what_the_job_uses_alone(changes: dict[str, Any], most_lines: int) -> None:
    source = recipe(JobSpec.model_validate(changed(**changes)), RetrainSpec(), "job_1")
    lines = source.splitlines()
    assert len(lines) <= most_lines
    assert max(map(len, lines)) <= 100
    assert "USES" not in source
    tree = ast.parse(source)
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    for statement in tree.body:
        if isinstance(statement, ast.Import | ast.ImportFrom):
            imported = {(each.asname or each.name).partition(".")[0] for each in statement.names}
            assert imported - {"annotations"} <= names
        elif isinstance(statement, ast.FunctionDef | ast.ClassDef):
            assert statement.name in names


def test_what_the_file_does_not_state_is_refused(tmp_path: Path) -> None:
    spec = JobSpec.model_validate(SPEC)
    ranking = {"kind": "attribution", "problem": SPEC["problem"], "training": SPEC["training"]}
    with pytest.raises(NotPlain, match="an attribution, which tunes nothing"):
        recipe(JobSpec.model_validate(ranking), RetrainSpec(), "job_1")
    (tmp_path / "my_problem.py").write_text("from drmad_workers.training.config import Schedule\n")
    with pytest.raises(NotPlain, match=r"drmad_workers\.training\.config, which your code imports"):
        code_files(pack(tmp_path).content)
    assert shortcomings(spec) == ""
    weights = SPEC["problem"] | {"weights": "start.safetensors"}
    assert "weights.safetensors" in shortcomings(spec.model_validate(SPEC | {"problem": weights}))
