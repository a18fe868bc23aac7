from __future__ import annotations

import hashlib
import html
import importlib
import json
import logging
import socket
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save

import drmad_client
from drmad_client import errors
from drmad_client.files import array_file
from drmad_client.files.code_archive import pack
from drmad_client.http.client import Client
from drmad_client.http.protocol import flows, uploads
from drmad_client.records.events import LogLine
from drmad_client.records.job import JobRecord
from drmad_client.records.meta_iteration import MetaIteration
from drmad_client.records.pages import Page
from drmad_client.records.status import JobStatus
from drmad_client.spec.job import JobSpec
from tests.client import samples
from tests.client.http import fake_service
from tests.client.http.both import MakeClient
from tests.client.http.fake_service import Answer, FakeService

JOB = f"/v1/jobs/{samples.ID}"
EVENTS = f"{JOB}/events"


def created(done: int = 0) -> Answer:
    return fake_service.record(samples.job(JobStatus.QUEUED, done), 201)


def test_a_job_reads_the_same_from_a_spec_and_from_a_mapping(
    client: Client, service: FakeService
) -> None:
    service.on("POST", "/v1/jobs", created())
    job = client.jobs.create(JobSpec.model_validate(samples.SPEC))
    assert job == client.jobs.create(samples.SPEC)
    spec, mapping = (json.loads(request.body) for request in service.requests)
    assert mapping == samples.SPEC  # untouched: the service judges it
    assert JobSpec.model_validate(spec) == JobSpec.model_validate(mapping)


def test_one_idempotency_key_is_held_over_the_retries_of_a_create(
    client: Client, service: FakeService
) -> None:
    cut = Answer(201, b"{", breaks_off=True)
    service.on("POST", "/v1/jobs", fake_service.problem(503, "busy"), cut, created())
    client.jobs.create(samples.SPEC)
    client.jobs.create(samples.SPEC)
    keys = [request.headers["idempotency-key"] for request in service.requests]
    assert len(keys) == 4
    assert len(set(keys[:3])) == 1
    assert keys[3] != keys[0]


def test_a_given_idempotency_key_is_sent(client: Client, service: FakeService) -> None:
    service.on("POST", "/v1/jobs", created())
    client.jobs.create(samples.SPEC, idempotency_key="mine")
    assert service.requests[0].headers["idempotency-key"] == "mine"


@pytest.fixture
def own_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    folder = tmp_path / "own"
    folder.mkdir()
    (folder / "stated_here.py").write_text("def build(width=2): ...")
    monkeypatch.syspath_prepend(str(folder))
    yield importlib.import_module("stated_here")
    del sys.modules["stated_here"]


def test_code_is_sent_once_and_named_in_the_spec(
    client: Client, service: FakeService, tmp_path: Path
) -> None:
    (tmp_path / "my_problem.py").write_text("def build(): ...")
    archive = pack(tmp_path)
    path = f"/v1/code/{archive.name.removeprefix('sha256:')}"
    service.on("HEAD", path, Answer(404), Answer(200))
    service.on("PUT", path, Answer(201))
    service.on("POST", "/v1/jobs", created())
    assert client.code.upload(tmp_path) == archive.name
    spec = samples.SPEC | {"problem": {"entrypoint": "my_problem:build"}}
    client.jobs.create(spec, code=str(tmp_path))
    (sent,) = service.heard("PUT", path)
    assert sent.body == archive.content
    problem = json.loads(service.requests[-1].body)["problem"]
    assert problem == {"entrypoint": "my_problem:build", "code": archive.name}


def test_a_function_is_packed_and_named_in_the_spec(
    client: Client, service: FakeService, own_module: ModuleType, caplog: pytest.LogCaptureFixture
) -> None:
    packed = drmad_client.pack(own_module.build)
    path = f"/v1/code/{packed.archive.name.removeprefix('sha256:')}"
    service.on("HEAD", path, Answer(404), Answer(200))
    service.on("PUT", path, Answer(201))
    service.on("POST", "/v1/jobs", created())
    spec = samples.SPEC | {"problem": {"options": {"width": 3}}}
    with caplog.at_level(logging.INFO, "drmad_client"):
        job = client.jobs.create(spec, problem=own_module.build)
    assert [line.message for line in caplog.records] == [f"packed {packed.summary}"]
    assert job.packed == packed
    assert html.escape(packed.summary) in job._repr_html_()
    (sent,) = service.heard("PUT", path)
    assert sent.body == packed.archive.content
    assert client.jobs.create(spec, problem=packed).packed == packed
    for request in service.heard("POST", "/v1/jobs"):
        assert json.loads(request.body)["problem"] == {
            "options": {"width": 3},
            "code": packed.archive.name,
            "entrypoint": "stated_here:build",
        }


def test_a_check_and_a_validation_take_a_function_too(
    client: Client, service: FakeService, own_module: ModuleType
) -> None:
    packed = drmad_client.pack(own_module.build)
    path = f"/v1/code/{packed.archive.name.removeprefix('sha256:')}"
    service.on("HEAD", path, Answer(200))
    spec = samples.SPEC | {"problem": {}}
    for method in (client.jobs.check, client.jobs.validate):
        with pytest.raises(errors.NotFound):  # the answer is not what this test is about
            method(spec, problem=own_module.build)
    sent = [json.loads(request.body)["problem"] for request in service.heard("POST", "/v1/jobs")]
    named = {"code": packed.archive.name, "entrypoint": packed.entrypoint}
    assert sent == [named, named]


def test_a_folder_and_a_function_together_are_refused(
    client: Client, service: FakeService, own_module: ModuleType, tmp_path: Path
) -> None:
    for method in (client.jobs.create, client.jobs.check, client.jobs.validate):
        with pytest.raises(ValueError, match="either `code` or `problem`, got both"):
            method(samples.SPEC, code=tmp_path, problem=own_module.build)
    assert not service.requests


@pytest.mark.parametrize("of_a_model", [True, False])
def test_a_function_beside_a_problem_of_the_catalog_is_refused(
    client: Client, service: FakeService, own_module: ModuleType, of_a_model: bool
) -> None:
    packed = drmad_client.pack(own_module.build)
    service.on("HEAD", f"/v1/code/{packed.archive.name.removeprefix('sha256:')}", Answer(200))
    spec = JobSpec.model_validate(samples.SPEC) if of_a_model else samples.SPEC
    with pytest.raises(ValueError, match=r"leave out problem\.model and problem\.data"):
        client.jobs.create(spec, problem=packed)
    assert not service.heard("POST", "/v1/jobs")


def test_a_job_of_another_handle_has_nothing_packed(client: Client, service: FakeService) -> None:
    service.on("POST", "/v1/jobs", created())
    assert client.jobs.create(samples.SPEC).packed is None


@pytest.mark.parametrize("as_file", [True, False])
def test_data_are_sent_once_from_a_file_or_from_arrays(
    client: Client, service: FakeService, tmp_path: Path, as_file: bool
) -> None:
    arrays: dict[str, Any] = {
        "inputs": np.ones((300_000, 1)),
        "targets": np.zeros(300_000, np.int64),
    }
    file = tmp_path / "mine.npz"
    np.savez(file, **arrays)
    data: Any = file if as_file else arrays
    content = file.read_bytes() if as_file else array_file.pack(arrays)
    sha256 = hashlib.sha256(content).hexdigest()
    path = f"/v1/data/{sha256}"
    service.on("HEAD", path, Answer(404), Answer(204))
    service.on("PUT", path, Answer(201))
    assert [client.data.upload(data) for _ in range(2)] == [f"sha256:{sha256}"] * 2
    (sent,) = service.heard("PUT", path)
    assert sent.body == content
    assert sent.headers["content-length"] == str(len(content))
    assert "transfer-encoding" not in sent.headers
    (tmp_path / "text.npz").write_text("no arrays")
    with pytest.raises(array_file.DataError, match="expected a complete npz"):
        client.data.upload(tmp_path / "text.npz")


def test_a_large_upload_goes_on_where_it_broke(
    client: Client, service: FakeService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploads, "PART_BYTES", 1000)
    file = tmp_path / "mine.npz"
    np.savez(file, inputs=np.arange(300.0).reshape(-1, 1), targets=np.zeros(300, np.int64))
    content = file.read_bytes()
    sha256, size = hashlib.sha256(content).hexdigest(), len(content)
    path = f"/v1/data/{sha256}"
    service.on("HEAD", path, Answer(404))
    service.on("GET", f"{path}/parts", *map(state, (500, 1200)))  # of an earlier attempt
    ends = [*range(2200, size, 1000), size]
    answers = [state(end, end == size) for end in ends]
    service.on("PATCH", f"{path}/parts", Answer(502), *answers)
    assert client.data.upload(file) == f"sha256:{sha256}"
    lost, *sent = service.heard("PATCH", f"{path}/parts")
    assert lost.body == content[500:1500]
    assert b"".join(each.body for each in sent) == content[1200:]
    assert all(f"length={size}" in each.query for each in sent)


def state(offset: int, is_complete: bool = False) -> Answer:
    return Answer(200, json.dumps({"offset": offset, "is_complete": is_complete}).encode())


def test_validate_creates_nothing_and_answers_the_defaults(
    client: Client, service: FakeService
) -> None:
    spec = JobSpec.model_validate(samples.SPEC)
    service.on("POST", "/v1/jobs", fake_service.record(spec))
    assert client.jobs.validate(samples.SPEC) == spec
    assert service.requests[0].query == "validate_only=true&deep=false"


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_a_busy_service_is_asked_again(client: Client, service: FakeService, status: int) -> None:
    service.on("GET", JOB, Answer(status, b"busy"), fake_service.record(samples.job()))
    assert client.jobs.retrieve(samples.ID).record == samples.job()


def test_retries_end(client: Client, service: FakeService) -> None:
    service.on("GET", JOB, fake_service.problem(503, "no Redis"))
    with pytest.raises(errors.ServerError, match="no Redis"):
        client.jobs.retrieve(samples.ID)
    assert len(service.requests) == 4


def test_retry_after_is_honoured(client: Client, service: FakeService) -> None:
    busy = fake_service.problem(429, "slow down", **{"retry-after": "0.3"})
    service.on("GET", JOB, busy, fake_service.record(samples.job()))
    began = time.monotonic()
    client.jobs.retrieve(samples.ID)
    assert time.monotonic() - began >= 0.3


@pytest.mark.parametrize(
    "after",
    ["3600", format_datetime(datetime.now(UTC) + timedelta(hours=1), usegmt=True)],
    ids=["seconds", "date"],
)
def test_a_retry_after_beyond_patience_is_raised_at_once(
    client: Client, service: FakeService, after: str
) -> None:
    service.on("GET", JOB, fake_service.problem(429, "tomorrow", **{"retry-after": after}))
    with pytest.raises(errors.RateLimited, match="tomorrow"):
        client.jobs.retrieve(samples.ID)
    assert len(service.requests) == 1


def test_a_broken_answer_is_asked_for_again(client: Client, service: FakeService) -> None:
    whole = fake_service.record(samples.job())
    service.on("GET", JOB, Answer(200, whole.body[:-20], breaks_off=True), whole)
    assert client.jobs.retrieve(samples.ID).record == samples.job()


def test_cancel_is_sent_once(client: Client, service: FakeService) -> None:
    service.on("POST", f"{JOB}/cancel", fake_service.problem(503, "busy"))
    with pytest.raises(errors.ServerError):
        client.jobs.cancel(samples.ID)
    assert len(service.requests) == 1


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, errors.BadRequest),
        (401, errors.AuthenticationFailed),
        (403, errors.PermissionDenied),
        (404, errors.NotFound),
        (409, errors.Conflict),
        (413, errors.BadRequest),
        (418, errors.ApiError),
        (422, errors.UnprocessableEntity),
        (500, errors.ServerError),
        (507, errors.ServerError),
    ],
)
def test_problems_become_exceptions(
    client: Client, service: FakeService, status: int, error: type[errors.ApiError]
) -> None:
    bad = {"path": "training.steps", "message": "must be at least 1, got -1"}
    service.on("POST", "/v1/jobs", fake_service.problem(status, "no", [bad]))
    with pytest.raises(errors.ApiError) as caught:
        client.jobs.create(samples.SPEC)
    assert type(caught.value) is error
    assert caught.value.status == status
    assert caught.value.code == "some_code"
    assert caught.value.request_id == "req_1"
    assert str(caught.value) == "no\n  training.steps: must be at least 1, got -1"


def test_an_error_that_is_no_problem_is_shown_in_short(
    client: Client, service: FakeService
) -> None:
    page = b"<html>\n<h1>Not here</h1>" + b"x" * 5000
    service.on("GET", "/v1/catalog", Answer(404, page))
    with pytest.raises(errors.NotFound, match="returned 404 Not Found: '<html> <h1>") as caught:
        client.catalog()
    assert caught.value.code == "unexpected_answer"
    assert len(str(caught.value)) < 300


def test_an_answer_to_head_has_no_body_and_a_missing_key_is_named_all_the_same(
    client: Client, service: FakeService, tmp_path: Path
) -> None:
    (tmp_path / "my_problem.py").write_text("")
    sha256 = pack(tmp_path).name.removeprefix("sha256:")
    service.on("HEAD", f"/v1/code/{sha256}", Answer(401, b""))
    with pytest.raises(errors.AuthenticationFailed, match="set DRMAD_API_KEY, or DRMAD_HOME"):
        client.jobs.create({"problem": {"entrypoint": "my_problem:build"}}, code=tmp_path)


@pytest.mark.parametrize("body", [b"<html>hello</html>", b"", b"\xff\xfe", b"[]", b"{}"])
def test_somebody_else_on_the_port_is_recognised(
    client: Client, service: FakeService, body: bytes
) -> None:
    service.on("GET", JOB, Answer(200, body))
    service.on("GET", f"{JOB}/model", Answer(200, body))
    service.on("GET", EVENTS, Answer(200, body, {"content-type": "text/html"}))
    with pytest.raises(errors.ConnectionFailed, match="check the URL"):
        client.jobs.retrieve(samples.ID)
    with pytest.raises(errors.ConnectionFailed, match="check the URL"):
        client.jobs.model(samples.ID)
    with pytest.raises(errors.ConnectionFailed, match="check the URL"):
        next(client.jobs.events(samples.ID))


def test_nobody_there_is_answered_with_the_url_and_what_to_do(make_client: MakeClient) -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
    client = make_client(url)
    with pytest.raises(errors.ConnectionFailed, match=f"{url}.*start one with: drmad up"):
        client.jobs.list()
    with pytest.raises(errors.ConnectionFailed, match=f"{url}.*start one with: drmad up"):
        next(client.jobs.events(samples.ID))


@pytest.mark.parametrize("url", ["localhost:8080", "ftp://there", "http://", "http://[::1"])
def test_a_wrong_url_is_named(url: str, make_client: MakeClient) -> None:
    with pytest.raises(errors.ConnectionFailed, match="the URL must be like http"):
        make_client(url)


def test_url_and_key_come_from_arguments_then_from_the_environment(
    make_client: MakeClient, service: FakeService, monkeypatch: pytest.MonkeyPatch
) -> None:
    service.on("GET", "/v1/catalog", Answer(200, b"{}"))
    monkeypatch.setenv("DRMAD_URL", f"{service.url}/")
    monkeypatch.setenv("DRMAD_API_KEY", "from-environment\n")
    make_client().catalog()
    make_client(service.url, "given").catalog()
    sent = [request.headers["authorization"] for request in service.requests]
    assert sent == ["Bearer from-environment", "Bearer given"]


def test_an_empty_id_never_becomes_another_request(client: Client, service: FakeService) -> None:
    with pytest.raises(ValueError, match="job id must not be empty"):
        client.jobs.retrieve("")
    with pytest.raises(errors.NotFound):
        client.jobs.retrieve("../catalog?x")
    assert service.requests[0].path == "/v1/jobs/..%2Fcatalog%3Fx"


def test_lists_are_filtered_by_the_service(client: Client, service: FakeService) -> None:
    page = Page[JobRecord](data=[samples.job()], has_more=True, next="job_1")
    service.on("GET", "/v1/jobs", fake_service.record(page))
    listed = client.jobs.list()
    assert [job.record for job in listed.data] == page.data
    assert (listed.has_more, listed.next) == (True, "job_1")
    client.jobs.list(JobStatus.RUNNING, tag="team:vision", after="job_2", limit=1)
    assert [request.query for request in service.requests] == [
        "limit=20",
        "status=running&tag=team%3Avision&after=job_2&limit=1",
    ]


def test_a_list_goes_on_through_its_pages(client: Client, service: FakeService) -> None:
    jobs = [samples.job(id=f"job_{number}") for number in range(5)]
    pages = [
        Page[JobRecord](data=jobs[:2], has_more=True, next="job_1"),
        Page[JobRecord](data=jobs[2:4], has_more=True, next="job_3"),
        Page[JobRecord](data=jobs[4:], has_more=False, next="job_4"),
    ]
    service.on("GET", "/v1/jobs", *map(fake_service.record, pages))
    listed = client.jobs.list("running", "team:vision", limit=2)
    assert [job.id for job in listed] == [job.id for job in jobs]
    common = "status=running&tag=team%3Avision"
    assert [request.query for request in service.requests] == [
        f"{common}&limit=2",
        f"{common}&after=job_1&limit=2",
        f"{common}&after=job_3&limit=2",
    ]


def test_history_joins_its_pages(client: Client, service: FakeService) -> None:
    records = [samples.record(i) for i in range(5)]
    pages = [
        Page[MetaIteration](data=records[:2], has_more=True, next="1"),
        Page[MetaIteration](data=records[2:4], has_more=True, next="3"),
        Page[MetaIteration](data=records[4:], has_more=False),
    ]
    service.on("GET", f"{JOB}/history", *map(fake_service.record, pages))
    assert client.jobs.history(samples.ID) == records
    assert [request.query for request in service.requests] == [
        "limit=500",
        "after=1&limit=500",
        "after=3&limit=500",
    ]


def test_hyperparameters_come_in_the_users_units_or_raw(
    client: Client, service: FakeService
) -> None:
    raw = {
        "l2": np.array([-9.0, 0.0, 1000.0]),
        "sample_weight": np.array([-800.0, 0.0, 800.0]),
        "mixing": np.ones((2, 3), dtype=np.float32),
    }
    transforms = {"l2": "exp", "sample_weight": "sigmoid"}
    content = save(raw, {"iteration": "7", "transforms": json.dumps(transforms)})
    service.on("GET", f"{JOB}/hyperparameters", Answer(200, content))
    tuned = client.jobs.hyperparameters(samples.ID)
    np.testing.assert_allclose(tuned["l2"], [np.exp(-9.0), 1.0, np.inf])
    np.testing.assert_allclose(tuned["sample_weight"], [0.0, 0.5, 1.0])
    assert tuned["mixing"].dtype == np.float32
    assert tuned["mixing"].shape == (2, 3)
    for name, values in client.jobs.hyperparameters(samples.ID, 7, raw=True).items():
        np.testing.assert_array_equal(values, raw[name])
    assert [request.query for request in service.requests] == ["iteration=best", "iteration=7"]
    assert "application/vnd.safetensors" in service.requests[0].headers["accept"]


def test_a_transform_that_is_not_known_is_not_guessed(client: Client, service: FakeService) -> None:
    content = save({"l2": np.zeros(1)}, {"transforms": '{"l2": "softplus"}'})
    service.on("GET", f"{JOB}/hyperparameters", Answer(200, content))
    with pytest.raises(errors.ConnectionFailed):
        client.jobs.hyperparameters(samples.ID)


def test_gradients_and_models_are_never_transformed(client: Client, service: FakeService) -> None:
    content = save({"l2": np.array([1.0])}, {"transforms": '{"l2": "exp"}'})
    service.on("GET", f"{JOB}/hypergradients", Answer(200, content))
    service.on("GET", f"{JOB}/model", Answer(200, content))
    assert client.jobs.hypergradients(samples.ID, 0)["l2"] == [1.0]
    assert client.jobs.model(samples.ID)["l2"] == [1.0]


@pytest.mark.parametrize("action", ["cancel", "pause", "resume"])
def test_actions_answer_the_job_as_it_is_then(
    client: Client, service: FakeService, action: str
) -> None:
    service.on("POST", f"{JOB}/{action}", fake_service.record(samples.job(JobStatus.PAUSING)))
    service.on("GET", JOB, fake_service.record(samples.job()))
    assert getattr(client.jobs, action)(samples.ID).status is JobStatus.PAUSING
    job = client.jobs.retrieve(samples.ID)
    assert getattr(job, action)() == job
    assert job.status is JobStatus.PAUSING
    assert [r.body for r in service.heard("POST", f"{JOB}/{action}")] == [b"", b""]


def test_labels_are_sent_as_a_merge_patch(client: Client, service: FakeService) -> None:
    service.on("GET", JOB, fake_service.record(samples.job(JobStatus.RUNNING)))
    service.on("PATCH", JOB, fake_service.record(samples.job(JobStatus.SUCCEEDED)))
    job = client.jobs.retrieve(samples.ID)
    assert job.update(name="new", tags={"a": None}).status is JobStatus.SUCCEEDED
    assert client.jobs.update(samples.ID, note="", archived=False).id == samples.ID
    assert [json.loads(request.body) for request in service.heard("PATCH", JOB)] == [
        {"name": "new", "tags": {"a": None}},
        {"note": "", "archived": False},
    ]


def test_extend_and_fork_say_how_far_and_from_where(client: Client, service: FakeService) -> None:
    forked = fake_service.record(samples.job(JobStatus.QUEUED, id="job_2"), 201)
    service.on("POST", f"{JOB}/extend", fake_service.record(samples.job(JobStatus.QUEUED, 3)))
    service.on("POST", f"{JOB}/fork", forked)
    service.on("GET", JOB, fake_service.record(samples.job(JobStatus.SUCCEEDED, 3)))
    job = client.jobs.retrieve(samples.ID)
    assert job.extend(10).status is JobStatus.QUEUED
    assert job.fork().id == "job_2"  # from the best one
    assert job.fork(7, {"meta": {"learning_rate": 0.1}}).id == "job_2"
    assert [json.loads(request.body) for request in service.requests[1:]] == [
        {"iterations": 10},
        {"iteration": 2, "changes": {}},
        {"iteration": 7, "changes": {"meta": {"learning_rate": 0.1}}},
    ]


def test_delete_answers_nothing(client: Client, service: FakeService) -> None:
    service.on("DELETE", JOB, Answer(204))
    client.jobs.delete(samples.ID)
    assert len(service.heard("DELETE", JOB)) == 1
    service.on("DELETE", JOB, fake_service.problem(409, "it runs"))
    with pytest.raises(errors.Conflict, match="it runs"):
        client.jobs.delete(samples.ID)


def test_what_is_json_is_answered_as_it_is(client: Client, service: FakeService) -> None:
    for path in ("/v1/catalog", f"{JOB}/fidelity", f"{JOB}/figures/losses"):
        service.on("GET", path, Answer(200, json.dumps({"path": path}).encode()))
    answers = (
        client.catalog(),
        client.jobs.fidelity(samples.ID),
        client.jobs.figure(samples.ID, "losses"),
    )
    assert [answer["path"] for answer in answers] == [r.path for r in service.requests]


def test_a_job_without_a_best_iteration_is_forked_from_a_given_one(
    client: Client, service: FakeService
) -> None:
    service.on("GET", JOB, fake_service.record(samples.job(JobStatus.QUEUED)))
    with pytest.raises(ValueError, match="no best meta-iteration yet"):
        client.jobs.retrieve(samples.ID).fork()


def test_the_cluster_is_a_record(client: Client, service: FakeService) -> None:
    service.on("GET", "/v1/cluster", fake_service.record(samples.CLUSTER))
    assert client.cluster() == samples.CLUSTER


def lines(first: int, last: int) -> list[LogLine]:
    return [
        LogLine(id=f"{n}-0", at=samples.START, replica=0, text=f"line {n}")
        for n in range(first, last + 1)
    ]


def log_page(data: list[LogLine], has_more: bool = False) -> Answer:
    after = data[-1].id if data else None
    return fake_service.record(Page[LogLine](data=data, has_more=has_more, next=after))


def test_logs_join_their_pages(client: Client, service: FakeService) -> None:
    service.on("GET", f"{JOB}/logs", log_page(lines(1, 2), has_more=True), log_page(lines(3, 3)))
    assert list(client.jobs.logs(samples.ID, 1)) == lines(1, 3)
    assert [request.query for request in service.requests] == [
        "replica=1&limit=1000",
        "replica=1&after=2-0&limit=1000",
    ]


def test_followed_logs_end_with_the_job_and_miss_nothing(
    client: Client, service: FakeService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flows, "_LOG_PACE_S", 0.01)
    running, done = samples.job(), samples.job(JobStatus.SUCCEEDED, 3)
    service.on("GET", JOB, *map(fake_service.record, (running, running, done)))
    service.on(
        "GET",
        f"{JOB}/logs",
        log_page(lines(1, 2)),
        log_page([]),
        fake_service.problem(503, "busy"),
        log_page(lines(3, 3)),
        log_page(lines(4, 4)),  # printed after the last request of the log, before that of the job
        log_page([]),
    )
    assert list(client.jobs.logs(samples.ID, follow=True)) == lines(1, 4)


def test_a_failed_job_brings_the_end_of_its_log(client: Client, service: FakeService) -> None:
    failed = fake_service.record(samples.job(JobStatus.FAILED), etag='"0"')
    service.on("GET", JOB, failed)
    service.on("GET", f"{JOB}/logs", log_page(lines(1, 30), has_more=True), log_page(lines(31, 35)))
    with pytest.raises(errors.JobFailed, match="the loss became NaN") as caught:
        client.jobs.wait(samples.ID)
    assert caught.value.log_tail == [line.text for line in lines(16, 35)]


def test_wait_polls_for_changes_until_the_job_has_succeeded(
    client: Client, service: FakeService
) -> None:
    done = samples.job(JobStatus.SUCCEEDED, 3)
    service.on(
        "GET",
        JOB,
        fake_service.record(samples.job(), etag='"0"'),
        Answer(304),
        fake_service.problem(502, "restarting"),
        fake_service.record(done, etag='"3"'),
    )
    assert client.jobs.wait(samples.ID).record == done
    assert "prefer" not in service.requests[0].headers
    for request in service.requests[1:]:
        assert request.headers["prefer"] == "wait=30"
        assert request.headers["if-none-match"] == '"0"'


@pytest.mark.parametrize("status", [JobStatus.FAILED, JobStatus.CANCELLED])
def test_wait_raises_when_the_job_did_not_succeed(
    client: Client, service: FakeService, status: JobStatus
) -> None:
    service.on("GET", JOB, fake_service.record(samples.job(status), etag='"0"'))
    with pytest.raises(errors.JobFailed, match=status) as caught:
        client.jobs.wait(samples.ID)
    assert caught.value.job.status is status


def test_wait_ends_in_time(client: Client, service: FakeService) -> None:
    service.on("GET", JOB, fake_service.record(samples.job(), etag='"0"'), Answer(304))
    with pytest.raises(errors.WaitTimeout, match=r"is still running after 0\.4 s"):
        client.jobs.wait(samples.ID, timeout_s=0.4)


def test_events_end_with_the_one_that_ends_the_job(client: Client, service: FakeService) -> None:
    service.on("GET", EVENTS, fake_service.stream(samples.life()))
    assert list(client.jobs.events(samples.ID)) == samples.life()
    assert list(client.jobs.events(samples.ID, after="0-7"))
    assert len(service.requests) == 2
    assert "last-event-id" not in service.requests[0].headers
    assert service.requests[1].headers["last-event-id"] == "0-7"


def test_a_broken_stream_goes_on_where_it_was(client: Client, service: FakeService) -> None:
    life = samples.life()
    torn = fake_service.stream(life[4:5]).body[:-30]
    service.on(
        "GET",
        EVENTS,
        fake_service.stream(life[:2], breaks_off=True),
        fake_service.stream(life[2:4], torn=torn, breaks_off=True),
        fake_service.problem(503, "restarting"),
        Answer(200, b"", {"content-type": "text/event-stream"}, breaks_off=True),
        fake_service.stream([*life[4:6], samples.progress_event(7)], breaks_off=True),
        fake_service.stream(life[6:]),
    )
    seen = [event for event in client.jobs.events(samples.ID) if event.type != "progress"]
    assert seen == life
    asked = [request.headers.get("last-event-id") for request in service.requests]
    assert asked == [None, "2-0", "4-0", "4-0", "4-0", "6-0"]


def test_a_slow_body_is_read_to_its_end(client: Client, service: FakeService) -> None:
    values = np.arange(1000.0)
    content = save({"l2": values}, {"transforms": '{"l2": "identity"}'})
    service.on("GET", f"{JOB}/hyperparameters", Answer(200, content, trickles=True))
    service.on("GET", EVENTS, replace(fake_service.stream(samples.life()), trickles=True))
    np.testing.assert_array_equal(client.jobs.hyperparameters(samples.ID)["l2"], values)
    assert list(client.jobs.events(samples.ID)) == samples.life()


def test_a_job_that_was_extended_goes_on_after_its_first_end(
    client: Client, service: FakeService
) -> None:
    life = samples.life()
    again = [
        samples.status_event(8, JobStatus.QUEUED),
        samples.iteration_event(9, 3),
        samples.status_event(10, JobStatus.SUCCEEDED),
    ]
    service.on("GET", EVENTS, fake_service.stream([*life, *again]))
    assert list(client.jobs.events(samples.ID)) == [*life, *again]
    assert len(service.requests) == 1


def test_a_stream_that_the_service_closed_goes_on_too(client: Client, service: FakeService) -> None:
    """A service that stops closes its streams in good order; the job may end meanwhile."""
    life = samples.life()
    service.on("GET", JOB, fake_service.record(samples.job(JobStatus.SUCCEEDED, 3)))
    service.on("GET", EVENTS, fake_service.stream(life[:3]), fake_service.stream(life[3:]))
    assert list(client.jobs.events(samples.ID)) == life


def test_nothing_after_the_last_event_is_an_end(client: Client, service: FakeService) -> None:
    service.on("GET", JOB, fake_service.record(samples.job(JobStatus.SUCCEEDED, 3)))
    service.on("GET", EVENTS, fake_service.stream([]))
    assert list(client.jobs.events(samples.ID, after="7-0")) == []


def test_a_stream_that_breaks_for_ever_is_given_up(client: Client, service: FakeService) -> None:
    service.on("GET", JOB, fake_service.record(samples.job()))
    service.on("GET", EVENTS, fake_service.stream(samples.life()[:1]), fake_service.stream([]))
    with pytest.raises(errors.ConnectionFailed, match="broke off repeatedly"):
        list(client.jobs.events(samples.ID))


def test_a_refused_stream_is_the_services_own_error(client: Client, service: FakeService) -> None:
    service.on("GET", EVENTS, fake_service.problem(404, "no such job"))
    with pytest.raises(errors.NotFound, match="no such job"):
        next(client.jobs.events(samples.ID))
    service.on("GET", EVENTS, fake_service.problem(503, "no Redis"))
    with pytest.raises(errors.ServerError, match="no Redis"):
        next(client.jobs.events(samples.ID))


def test_events_of_a_newer_service_are_passed_over(client: Client, service: FakeService) -> None:
    newer: dict[str, Any] = json.loads(samples.life()[0].model_dump_json()) | {"type": "rejected"}
    torn = f"event: rejected\ndata: {json.dumps(newer)}\n\n".encode()
    service.on(
        "GET",
        EVENTS,
        fake_service.stream(samples.life()[:1], torn=torn, breaks_off=True),
        fake_service.stream(samples.life()[1:]),
    )
    assert list(client.jobs.events(samples.ID)) == samples.life()
