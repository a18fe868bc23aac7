"""Weights from a file: the state dict of the model, whole and in its shapes, or an error."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import save_file, save_model
from torch import Tensor, nn

from drmad_client.spec.job import JobSpec
from drmad_workers import ProblemError, spec_adapter
from drmad_workers.catalog import Places
from drmad_workers.catalog.weights import load_weights
from tests.workers.objective.test_initial_weights import Tied, normed

CATALOG = {"data": {"name": "digits", "train": 60, "valid": 40, "test": 0}}
STILL = {"steps": 1, "batch_size": 10, "learning_rate": 1e-12, "precision": "float64"}
CODE = """
import torch
from drmad_workers import Problem

def build(initialize=None):
    data = torch.randn(40, 3), torch.arange(40) % 2
    return Problem(torch.nn.Linear(3, 2), data, data, initialize=initialize)

def own():
    def draw(model):
        model.bias.zero_()
    return build(draw)
"""


def job(problem: dict[str, Any]) -> JobSpec:
    return JobSpec.model_validate(
        {
            "problem": problem,
            "hyperparameters": [{"kind": "l2", "per": "layer", "init": -20}],
            "training": STILL,
            "hypergradient": {"method": "replay"},
        }
    )


def other(model: nn.Module) -> dict[str, Tensor]:
    """A state dict of the same names with other values."""
    return {n: t + 1 for n, t in model.state_dict().items()}


def saved(tensors: dict[str, Tensor], folder: Path) -> str:
    save_file(tensors, folder / "weights.safetensors")
    return "weights.safetensors"


@pytest.mark.parametrize("as_upload", [False, True])
def test_a_catalog_model_starts_from_the_weights_of_the_file(
    tmp_path: Path, as_upload: bool
) -> None:
    model = spec_adapter.problem(job(CATALOG), None, None).model
    given = other(model)
    weights = saved(given, tmp_path)
    if as_upload:
        digest = hashlib.sha256((tmp_path / weights).read_bytes()).hexdigest()
        (tmp_path / weights).rename(tmp_path / digest)
        weights = f"sha256:{digest}"
    places = Places([tmp_path], uploads=tmp_path)
    spec = job({**CATALOG, "weights": weights})
    problem = spec_adapter.problem(spec, places, None)
    assert problem.initialize is None
    for name, tensor in problem.model.state_dict().items():
        assert torch.equal(tensor, given[name])
    inputs, targets = problem.valid
    plain = problem.model.double()
    expected = nn.functional.cross_entropy(plain(inputs.double()), targets)
    tuner = spec_adapter.tuner(spec, built=problem)
    for draw in (0, 1):
        found = tuner.evaluate(tuner.initial_values(), 0, draw=draw).validation_loss
        assert found == pytest.approx(float(expected.detach()), rel=1e-9)


def changed(change: Callable[[dict[str, Tensor]], object]) -> dict[str, Tensor]:
    tensors = other(normed())
    change(tensors)
    return tensors


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        (changed(lambda t: t.pop("0.bias")), r"misses 0\.bias: save the state dict"),
        (changed(lambda t: t.update(extra=torch.ones(1))), "has beside them extra"),
        (changed(lambda t: t.update({"0.bias": torch.ones(7)})), r"0\.bias: \(7,\) for \(5,\)"),
        (
            changed(lambda t: t.update({"0.bias": torch.ones(5, dtype=torch.int64)})),
            r"0\.bias: torch\.int64 for torch\.float32",
        ),
    ],
    ids=["missing", "unexpected", "shape", "type"],
)
def test_a_file_of_another_model_is_refused_by_name(
    tmp_path: Path, tensors: dict[str, Tensor], words: str
) -> None:
    model = normed()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(ProblemError, match=words) as error:
        load_weights(model, saved(tensors, tmp_path), Places([tmp_path]))
    assert error.value.field == "problem.weights"
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_numbers_take_the_type_of_the_model(tmp_path: Path, dtype: torch.dtype) -> None:
    model = normed()
    tensors = {
        name: tensor.to(dtype) if tensor.is_floating_point() else tensor
        for name, tensor in other(model).items()
    }
    load_weights(model, saved(tensors, tmp_path), Places([tmp_path]))
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, tensors[name].to(tensor.dtype))


def test_tied_weights_are_loaded_under_one_name_or_under_both(tmp_path: Path) -> None:
    given, places = Tied(), Places([tmp_path])
    nn.init.normal_(given.encode.weight)
    save_model(given, str(tmp_path / "one"))  # it writes the name of a shared tensor once
    whole = {name: tensor.clone() for name, tensor in given.state_dict().items()}
    save_file(whole, tmp_path / "both")
    for name in ("one", "both"):
        model = Tied()
        load_weights(model, name, places)
        assert model.encode.weight is model.decode.weight
        assert torch.equal(model.encode.weight, given.encode.weight)
    save_file(whole | {"decode.weight": torch.ones(4, 4)}, tmp_path / "apart")
    with pytest.raises(ProblemError, match=r"encode\.weight and decode\.weight are one tensor"):
        load_weights(Tied(), "apart", places)


def test_a_file_that_is_not_there_or_is_damaged_is_refused(tmp_path: Path) -> None:
    inside = tmp_path / "root"
    inside.mkdir()
    (tmp_path / "outside").write_bytes(b"x")
    (inside / "text").write_bytes(b"not a tensor")
    digest = "0" * 64
    (inside / digest).write_bytes(b"other bytes")
    places = Places([inside], uploads=inside)
    for weights, words in (
        ("../outside", "below a data root"),
        ("missing", "is not a file"),
        ("text", "must be a safetensors file"),
        (f"sha256:{digest}", "is damaged on this worker"),
        (f"sha256:{'1' * 64}", "upload it again"),
    ):
        with pytest.raises(ProblemError, match=words) as error:
            load_weights(normed(), weights, places)
        assert error.value.field == "problem.weights"


def test_weights_that_would_be_drawn_again_are_refused(tmp_path: Path) -> None:
    (tmp_path / "mine_with_weights.py").write_text(CODE)
    given = other(nn.Linear(3, 2))
    code = {"code": f"sha256:{'0' * 64}", "weights": saved(given, tmp_path)}
    mine = {"entrypoint": "mine_with_weights:build", **code}
    places = Places([tmp_path])
    found = spec_adapter.problem(job(mine), places, tmp_path)
    assert torch.equal(found.model.get_parameter("bias"), given["bias"])
    reset = job({**mine, "options": {"initialize": "reset"}})
    with pytest.raises(ProblemError, match="would be drawn again") as error:
        spec_adapter.problem(reset, places, tmp_path)
    assert error.value.field == "problem.weights"
    with pytest.raises(ValidationError, match="leave out one of them"):
        job({**mine, "initialize": "reset"})
    drawn = spec_adapter.problem(
        job({"entrypoint": "mine_with_weights:own", **code}), places, tmp_path
    )
    assert callable(drawn.initialize)  # it draws from the weights of the file


def test_code_that_states_nothing_draws_again_where_the_job_says_reset(tmp_path: Path) -> None:
    (tmp_path / "mine_of_old.py").write_text(CODE)
    mine = {"entrypoint": "mine_of_old:build", "code": f"sha256:{'0' * 64}", "initialize": "reset"}
    assert spec_adapter.problem(job(mine), None, tmp_path).initialize == "reset"
    own = spec_adapter.problem(job(mine | {"entrypoint": "mine_of_old:own"}), None, tmp_path)
    assert callable(own.initialize)


@pytest.mark.parametrize("weights", ["", "sha256:12", f"sha256:{'A' * 64}"])
def test_weights_are_an_upload_or_a_path(weights: str) -> None:
    with pytest.raises(ValidationError) as error:
        job({**CATALOG, "weights": weights})
    assert error.value.errors()[0]["loc"][-1] == "weights"
