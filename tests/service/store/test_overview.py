from __future__ import annotations

import json
from collections.abc import Callable
from importlib import resources
from io import BytesIO
from typing import Any
from zipfile import ZipFile

import httpx
import pytest
from redis.asyncio import Redis

from drmad_client.plots.figures import FIGURES
from drmad_client.records.job import JobRecord
from drmad_client.records.service.cluster import Cluster
from drmad_service.store import Store
from drmad_service.store.overview import Overview
from tests.service.api.test_api import problem
from tests.service.dashboard import gallery

pytestmark = pytest.mark.anyio


@pytest.fixture
async def jobs(store: Store) -> dict[str, str]:
    return await gallery.gallery(store)


@pytest.fixture
def overview(redis: Redis, store: Store) -> Overview:
    return Overview(redis, store, silent_s=15.0)


async def test_every_figure_is_plotly_json_and_known_by_its_etag(
    api: httpx.AsyncClient, jobs: dict[str, str]
) -> None:
    path = f"/v1/jobs/{jobs['digits, l2 per unit']}/figures"
    for name in FIGURES:
        answer = await api.get(f"{path}/{name}")
        assert answer.status_code == 200
        assert {"data", "layout"} <= answer.json().keys()
        again = await api.get(f"{path}/{name}", headers={"If-None-Match": answer.headers["etag"]})
        assert again.status_code == 304
    losses = (await api.get(f"{path}/losses")).json()["data"][0]
    assert losses["x"] == list(range(1, 31))
    assert "losses" in problem(await api.get(f"{path}/none"), 404, "result_not_found").detail
    problem(await api.get("/v1/jobs/job_none/figures/losses"), 404, "job_not_found")


async def test_figures_of_a_job_that_has_not_begun_say_so(
    api: httpx.AsyncClient, jobs: dict[str, str]
) -> None:
    for name in FIGURES:
        answer = await api.get(f"/v1/jobs/{jobs['ablation, 3 of 3']}/figures/{name}")
        assert answer.json()["data"] == []


async def test_long_histories_are_sampled_with_their_ends_and_their_best(
    store: Store, overview: Overview
) -> None:
    lease = await gallery.running(store, gallery.spec("long", 2000), size=8)
    await gallery.commit(store, lease, range(1101), 2000, size=8)
    job = await store.get(lease.job_id)
    assert job.best is not None
    sampled = [record.iteration for record in await overview.sample(job)]
    assert len(sampled) <= 802
    assert sampled == sorted(set(sampled))
    assert {0, 1100, job.best.iteration} <= set(sampled)
    losses = (await overview.losses([job]))[job.id]
    assert 16 <= len(losses) <= 33
    assert losses[-1] == (await store.iteration(job.id, 1100)).validation_loss


async def test_search_finds_every_word_in_name_problem_tags_and_state(
    overview: Overview, jobs: dict[str, str]
) -> None:
    async def found(text: str, limit: int = 50) -> list[str]:
        page = await overview.find(text=text, limit=limit)
        return [job.name for job in page.data]

    assert await found("NIGHT") == ["night shift"]
    assert await found("team:vision failed") == ["rate too high"]
    assert await found(jobs["a mistake"]) == ["a mistake"]
    assert await found("nothing of this") == []
    assert await found("sample_weight") == ["clean digits"]
    assert await found("weight mlp") == ["clean digits"]
    assert await found(jobs["a mistake"][-6:]) == ["a mistake"]
    assert await found(jobs["a mistake"][4:8]) == []  # a part of every id
    first = await overview.find(text="digits", limit=3)
    assert first.has_more
    rest = await overview.find(text="digits", after=first.next)
    assert {j.id for j in first.data + rest.data} == set(jobs.values())


async def test_jobs_are_sorted_by_a_figure_with_those_without_it_last(
    overview: Overview, jobs: dict[str, str]
) -> None:
    figures: dict[str, Callable[[JobRecord], Any]] = {
        "best": lambda job: job.best and job.best.validation_loss,
        "test": lambda job: job.best and job.best.metrics["test_error"],
        "name": lambda job: job.name.lower(),
    }
    for order, of in figures.items():
        for reverse in (False, True):
            listed = await overview.ordered(order, reverse)
            assert {job.id for job in listed} == set(jobs.values())
            known = [of(job) for job in listed if of(job) is not None]
            assert known == sorted(known, reverse=reverse)
            assert [of(job) for job in listed[len(known) :]] == [None] * (len(listed) - len(known))
    newest = await overview.ordered("age", False, text="digits")
    assert newest[0].name == "ablation, 3 of 3"


async def test_the_cluster_shows_nodes_what_runs_and_the_queue_in_its_order(
    api: httpx.AsyncClient, store: Store, jobs: dict[str, str]
) -> None:
    await store.report_nodes("scheduler_1", gallery.nodes())
    gone = json.loads(gallery.nodes()) | {"at": "2026-01-01T00:00:00Z"}
    await store.report_nodes("scheduler_2", json.dumps(gone))
    cluster = Cluster.model_validate((await api.get("/v1/cluster")).json())
    assert [view.scheduler for view in cluster.schedulers] == ["scheduler_1"]
    assert (cluster.cpus, cluster.gpus) == (32, 8)
    (running,) = cluster.running
    assert (running.name, running.cpus) == ("digits, two replicas", 2)
    assert running.nodes == ["node-1", "node-2"]
    assert cluster.reserved_cpus == 2
    # The later one has the higher priority; what the cluster cannot hold comes last.
    assert cluster.queue[0].name == "ablation, 3 of 3"
    assert "needs 64 GPUs, the cluster has 8" in cluster.queue[1].message


async def test_pages_are_html_that_may_run_no_script_but_ours(
    api: httpx.AsyncClient, jobs: dict[str, str]
) -> None:
    for path in ("/", "/new", "/cluster", "/sign-in", f"/jobs/{jobs['clean digits']}"):
        page = await api.get(path)
        assert page.status_code == 200
        assert page.headers["content-type"].startswith("text/html")
        policy = page.headers["content-security-policy"]
        assert "script-src 'self';" in policy
        assert "default-src 'none'" in policy
        assert page.headers["cache-control"] == "no-store"
    missing = await api.get("/jobs/job_none")
    assert (missing.status_code, "there is no job" in missing.text) == (404, True)


async def test_static_files_are_compressed_and_kept_for_ever(api: httpx.AsyncClient) -> None:
    page = (await api.get("/")).text
    address = page.partition('rel="stylesheet" href="')[2].partition('"')[0]
    style = await api.get(address)
    assert style.headers["content-encoding"] == "gzip"
    assert "immutable" in style.headers["cache-control"]
    plotly = await api.get(address.replace("app.css", "plotly.min.js"))
    assert plotly.headers["content-type"].startswith("text/javascript")
    assert int(plotly.headers["content-length"]) < 1_600_000
    own = resources.files("plotly").joinpath("package_data", "plotly.min.js").read_bytes()
    assert plotly.content.endswith(own)
    old = await api.get("/static/0/app.css")
    assert (old.status_code, old.headers["cache-control"]) == (200, "no-store")
    for name in ("../../app.py", "..%2f..%2fapp.py", "none.js"):
        assert (await api.get(f"/static/0/{name}")).status_code == 404
    assert (await api.get("/favicon.ico")).headers["content-type"] == "image/svg+xml"


async def test_downloads_are_files(api: httpx.AsyncClient, jobs: dict[str, str]) -> None:
    job = jobs["digits, l2 per unit"]
    for file, begins in (
        ("job.yaml", b"name: digits"),
        ("history.csv", b"iteration,"),
        ("hyperparameters.safetensors", b""),
        ("model.safetensors", b""),
    ):
        answer = await api.get(f"/jobs/{job}/download/{file}")
        assert answer.content.startswith(begins)
        assert f"{job}-{file}" in answer.headers["content-disposition"]
    assert (await api.get(f"/jobs/{job}/download/passwd")).status_code == 404
    packed = await api.get(f"/jobs/{job}/recipe.zip")
    with ZipFile(BytesIO(packed.content)) as archive:
        assert archive.namelist() == ["hyperparameters.safetensors", "recipe.py"]
        assert b"def train(" in archive.read("recipe.py")
