"""The main job on real data, from REST to result, with nothing replaced."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from safetensors import numpy as safetensors

from drmad_client.errors import JobFailed, JobWarning
from drmad_client.http.client import Client
from drmad_client.records.status import JobStatus
from drmad_workers.catalog import Places, load_data
from tests.end_to_end.running import WAIT_S, Service

EXAMPLES = Path(__file__).parents[2] / "examples"


def example(name: str) -> dict[str, Any]:
    spec: dict[str, Any] = yaml.safe_load((EXAMPLES / name).read_text())
    return spec


def auc(score: np.ndarray[Any, Any], is_right: np.ndarray[Any, Any]) -> float:
    """Probability that a right example scores above a wrong one (Mann-Whitney)."""
    rank = np.empty(len(score))
    rank[np.argsort(score, kind="stable")] = np.arange(1, len(score) + 1)
    right, wrong = is_right.sum(), (~is_right).sum()
    return float((rank[is_right].sum() - right * (right + 1) / 2) / (right * wrong))


def wrong_examples(spec: dict[str, Any], roots: list[Path]) -> np.ndarray[Any, Any]:
    data = spec["problem"]["data"]
    wrong = load_data(
        data["name"], {k: v for k, v in data.items() if k != "name"}, Places(roots)
    ).wrong
    assert wrong is not None
    return np.asarray(wrong)


def test_digits_with_wrong_labels_are_cleaned_over_rest(service: Service) -> None:
    spec = example("clean-digits.yaml")
    spec["meta"]["iterations"] = 20
    with service.http() as http:
        answer = http.post("/v1/jobs", json=spec)
        assert answer.status_code == 201
        path = answer.headers["location"]
        while not JobStatus((job := answer.json())["status"]).is_terminal:
            wait = {"Prefer": "wait=30", "If-None-Match": answer.headers["etag"]}
            changed = http.get(path, headers=wait)
            answer = changed if changed.status_code == 200 else answer
        history = http.get(f"{path}/history").json()["data"]
        accept = {"Accept": "application/vnd.safetensors"}
        tuned = http.get(f"{path}/hyperparameters?iteration=best", headers=accept)
    assert job["status"] == "succeeded"
    assert [record["iteration"] for record in history] == list(range(20))
    untuned_error = history[0]["metrics"]["test_error"]
    tuned_error = job["best"]["metrics"]["test_error"]
    assert untuned_error >= 0.15
    assert tuned_error <= 0.10
    best = [record["iteration"] for record in history if record["is_best"]]
    assert job["best"]["iteration"] == best[-1]
    wrong = wrong_examples(spec, [])
    lowest = np.argsort(safetensors.load(tuned.content)["sample_weight"])[: wrong.sum()]
    assert wrong[lowest].mean() >= 0.85


def test_same_seed_gives_the_same_numbers(client: Client) -> None:
    spec = example("clean-digits.yaml") | {"meta": {"iterations": 3}}
    spec["training"]["steps"] = 100
    jobs = [client.jobs.create(spec) for _ in range(2)]
    other = client.jobs.create(spec | {"seed": 1})
    losses = []
    for job in [*jobs, other]:
        client.jobs.wait(job.id, timeout_s=WAIT_S)
        losses.append([record.validation_loss for record in client.jobs.history(job.id)])
    assert losses[0] == losses[1]
    assert losses[0] != losses[2]
    vectors = [client.jobs.hypergradients(job.id, "last")["sample_weight"] for job in jobs]
    assert np.array_equal(vectors[0], vectors[1])


@pytest.mark.full
def test_mnist_with_wrong_labels_is_cleaned(client: Client, data_root: Path) -> None:
    spec = example("clean-mnist.yaml")
    spec["meta"]["iterations"] = 22
    plain = {
        "hyperparameters": [{"kind": "sample_weight", "init": 30.0}],
        "meta": {"iterations": 1},
    }
    truth = spec["problem"] | {"data": spec["problem"]["data"] | {"drop_noisy": True}}
    jobs = {
        "tuned": client.jobs.create(spec),
        "weights one": client.jobs.create(spec | plain),
        "correct labels": client.jobs.create(spec | plain | {"problem": truth}),
    }
    best = {}
    for name, job in jobs.items():
        done = client.jobs.wait(job.id, timeout_s=WAIT_S).best
        assert done is not None
        best[name] = done.metrics["test_error"]
    assert best["weights one"] > 0.18
    assert best["correct labels"] == pytest.approx(0.08, abs=0.02)
    assert best["tuned"] < 0.11
    weights = client.jobs.hyperparameters(jobs["tuned"].id)["sample_weight"]
    assert auc(weights, ~wrong_examples(spec, [data_root])) >= 0.88


@pytest.mark.full
def test_async_reaches_the_validation_loss_of_rounds(client: Client, data_root: Path) -> None:
    """At the same number of training runs."""
    few = example("clean-mnist.yaml") | {"meta": {"iterations": 12}}
    jobs = {
        mode: client.jobs.create(few | {"replicas": {"count": 2, "mode": mode}})
        for mode in ("sync", "async")
    }
    losses = {}
    for mode, job in jobs.items():
        best = client.jobs.wait(job.id, timeout_s=WAIT_S).best
        assert best is not None
        losses[mode] = best.validation_loss
    assert losses["async"] <= 1.1 * losses["sync"]
    stale = [
        f.staleness for record in client.jobs.history(jobs["async"].id) for f in record.replicas
    ]
    assert len(stale) == 24
    assert 0 < max(stale) <= 4


def test_result_can_be_fetched_and_used(client: Client, service: Service, tmp_path: Path) -> None:
    spec = example("clean-digits.yaml") | {"meta": {"iterations": 1}}
    spec["training"]["steps"] = 100
    job = client.jobs.wait(client.jobs.create(spec).id, timeout_s=WAIT_S)
    fetched = service.run("fetch", job.id, "--to", str(tmp_path / "result"))
    assert fetched.returncode == 0, fetched.stderr
    model = safetensors.load_file(tmp_path / "result" / "model.safetensors")
    assert sorted(w.shape for w in model.values()) == [(10,), (10, 50), (50,), (50, 64)]
    weights = client.jobs.hyperparameters(job.id)["sample_weight"]
    assert weights.shape == (1000,)
    assert (weights > 0).all()
    assert (weights < 1).all()


def test_method_that_points_nowhere_is_warned_of(client: Client) -> None:
    spec = example("clean-digits.yaml") | {"meta": {"iterations": 1}}
    trusted = client.jobs.create(spec)
    paper = client.jobs.create(spec | {"hypergradient": {"method": "shortcut", "preset": "paper"}})
    chosen = client.jobs.create(spec | {"hypergradient": {"method": "auto"}})
    for job in (trusted, chosen):
        job.wait(timeout_s=WAIT_S)
    with (
        pytest.warns(JobWarning, match="shortcut's hypergradient diverges"),
        pytest.raises(JobFailed) as caught,
    ):
        paper.wait(timeout_s=WAIT_S)
    assert caught.value.job.error is not None
    assert caught.value.job.error.code == "hypergradient_diverged"
    warnings = {
        job.id: [e.data["code"] for e in client.jobs.events(job.id) if e.type == "warning"]
        for job in (trusted, paper, chosen)
    }
    assert (warnings[trusted.id], warnings[chosen.id]) == ([], [])
    assert set(warnings[paper.id]) == {"fidelity_low"}  # by the preflight, then over all steps
    (good,) = client.jobs.fidelity(trusted.id)["report"]["predictions"]
    (poor,) = client.jobs.fidelity(paper.id)["report"]["predictions"]
    assert good["figure"]["cosine"] > 0.5
    assert (poor["figure"]["cosine"], poor["doubtful"]) == (None, True)
    found = client.jobs.fidelity(chosen.id)
    assert found["report"] is None
    assert [choice["iteration"] for choice in found["choices"]] == [0]
