"""Groups over the wire: nothing is created unless all is valid; one wait and one cancel."""

from __future__ import annotations

import json

import pytest

from drmad_client.errors import UnprocessableEntity
from drmad_client.http.client import Client
from drmad_client.records.status import JobStatus
from drmad_client.spec.job import JobSpec
from tests.client import samples
from tests.client.http import fake_service
from tests.client.http.fake_service import FakeService

VALID = fake_service.record(JobSpec.model_validate(samples.SPEC))
CREATED = fake_service.record(samples.job(JobStatus.QUEUED), 201)


def test_a_group_is_created_once_all_of_it_is_valid(client: Client, service: FakeService) -> None:
    service.on("POST", "/v1/jobs", VALID, VALID, CREATED, CREATED)
    specs = [samples.SPEC | {"seed": seed} for seed in (1, 2)]
    jobs = client.jobs.create_many(specs, group="g")
    assert [job.id for job in jobs] == [samples.ID] * 2
    checked, made = service.requests[:2], service.requests[2:]
    assert {request.query for request in checked} == {"validate_only=true&deep=false"}
    keys = [{k.lower(): v for k, v in each.headers.items()} for each in made]
    assert [each["idempotency-key"] for each in keys] == ["g-0", "g-1"]
    sent = [json.loads(request.body) for request in made]
    assert [(each["seed"], each["tags"]["group"]) for each in sent] == [(1, "g"), (2, "g")]


def test_one_invalid_spec_creates_nothing(client: Client, service: FakeService) -> None:
    refused = fake_service.problem(422, "1 field is invalid", [{"path": "seed", "message": "x"}])
    service.on("POST", "/v1/jobs", VALID, refused)
    with pytest.raises(UnprocessableEntity):
        client.jobs.create_many([samples.SPEC, samples.SPEC])
    assert len(service.requests) == 2
    assert all("validate_only" in request.query for request in service.requests)


def test_one_wait_and_one_cancel(client: Client, service: FakeService) -> None:
    path = f"/v1/jobs/{samples.ID}"
    cancelled = fake_service.record(samples.job(JobStatus.CANCELLED))
    service.on("GET", path, fake_service.record(samples.job(JobStatus.RUNNING)), cancelled)
    service.on("POST", f"{path}/cancel", fake_service.problem(409, "cannot cancel: it has ended"))
    assert [each.status for each in client.jobs.wait_all([samples.ID])] == [JobStatus.CANCELLED]
    assert [each.status for each in client.jobs.cancel_all([samples.ID])] == [JobStatus.CANCELLED]
