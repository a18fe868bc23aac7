"""The experiments' driver against a real service, on a tiny experiment."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from experiments.gather import gather
from experiments.opponents import search
from experiments.results import Results
from experiments.tasks import Retrained, Search, Tuned, on
from experiments.wrong_labels.experiment import draw, report

from drmad_client.http.client import Client
from tests.workers.catalog.test_catalog import write_idx

CASE = "40 %"
SPEC: dict[str, Any] = {
    "problem": {
        "model": {"name": "mlp", "hidden": [8]},
        "data": {"name": "digits", "train": 100, "valid": 50, "test": 50, "label_noise": 0.4},
    },
    "hyperparameters": [{"kind": "sample_weight"}],
    "training": {"steps": 20, "batch_size": 20, "learning_rate": 0.1},
    "hypergradient": {"method": "shortcut", "horizon": 10},
    "meta": {"iterations": 2},
}


def test_jobs_are_gathered_once_and_make_a_table_and_a_figure(
    client: Client, tmp_path: Path
) -> None:
    task = Tuned(CASE, "drmad", 0, SPEC, keep=("sample_weight",))
    gather(client, [task], Results(tmp_path))
    results = Results(tmp_path)
    (result,) = results
    assert results.has(task)
    assert len(result.validation_loss) == 2
    assert result.cost == pytest.approx(2 * (1 + 2 * 10 / 20))
    assert result.seconds["forward"] > 0.0
    assert result.methods == ["shortcut"]
    arrays = results.arrays(*task.name)
    assert arrays is not None
    assert arrays["sample_weight"].shape == (100,)

    jobs = len(list(client.jobs.list(limit=100)))
    gather(client, [task], results)
    assert len(list(client.jobs.list(limit=100))) == jobs

    error = f"{result.at_best('test_error'):.1%}".replace("%", " %")
    assert error in report(results)
    draw(results, tmp_path)
    assert (tmp_path / "test-error.svg").stat().st_size > 1000


def test_job_that_fails_leaves_its_reason(client: Client, tmp_path: Path) -> None:
    steep = {"kind": "l2", "per": "model", "init": 20.0}
    failing = SPEC | {"hyperparameters": [steep], "hypergradient": {"method": "one_step"}}
    gather(client, [Tuned(CASE, "drmad", 0, failing)], Results(tmp_path))
    (result,) = Results(tmp_path)
    assert "training loss must stay finite" in result.error
    assert result.validation_loss == []


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_search_tries_what_a_job_would_train_and_says_what_it_tried(sampler: Any) -> None:
    spec = SPEC | {"hyperparameters": [{"kind": "l2", "per": "layer"}]}
    task = Search(CASE, sampler, 3, spec, None, 3, sampler, {"l2": (-9.0, 0.0)})
    result = search(task)
    assert result.cost == 3.0
    tried = result.figures["tried"]["l2"]
    assert [len(values) for values in tried] == [2, 2, 2]
    assert all(-9.0 <= value <= 0.0 for values in tried for value in values)
    assert result.raw["l2"] == tried[result.best]
    assert search(task).validation_loss == result.validation_loss


def test_values_that_a_job_found_are_trained_with_again() -> None:
    spec = SPEC | {"hyperparameters": [{"kind": "l2", "per": "layer"}]}
    found = Search(CASE, "tpe", 3, spec, None, 2, "tpe", {"l2": (-9.0, 0.0)})
    tried = search(found)
    (second,) = (values for values in tried.figures["tried"]["l2"][1:])
    again = search(Retrained(CASE, "again", 3, spec, trials=2, values={"l2": second}))
    assert again.validation_loss[1] == pytest.approx(tried.validation_loss[1], rel=1e-5)
    assert again.validation_loss[0] != pytest.approx(tried.validation_loss[0], rel=1e-3)


def test_another_data_set_takes_the_place_of_mnist(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_idx(tmp_path / "fashion_mnist", "t10k", 300)
    monkeypatch.setenv("DRMAD_DATA_ROOTS", str(tmp_path))
    data = {"name": "mnist", "train": 200, "valid": 50, "test": 50}
    problem = {"model": {"name": "mlp", "hidden": [8]}, "data": data}
    spec = SPEC | {"problem": problem, "hyperparameters": [{"kind": "l2", "per": "model"}]}
    task = Search(CASE, "usual", 0, spec, space={"l2": (-8.0, -8.0)})
    other = on(task, "fashion_mnist")
    assert other.key != task.key
    assert task.spec["problem"]["data"]["name"] == "mnist"
    assert isinstance(other, Search)
    (loss,) = search(other).validation_loss
    assert loss == pytest.approx(2.3, abs=0.2)
