"""Requests that are odd but ordinary: each is served as the standard says, or refused by name."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from fastapi.routing import iter_route_contexts

from drmad_client.records.job import JobRecord
from drmad_client.spec.job import JobSpec
from drmad_service.api.app import create_app
from drmad_service.api.etags import matches
from drmad_service.settings import ApiSettings
from drmad_service.store import Store
from tests.service.api.test_api import finished, problem

pytestmark = pytest.mark.anyio

ROUTES = list(iter_route_contexts(create_app(ApiSettings(redis_url="unix:///nowhere")).routes))
ENDLESS = "/live"
GETS = sorted({str(r.path) for r in ROUTES if "GET" in (r.methods or ())} - {ENDLESS})


async def test_head_is_get_without_its_body(
    api: httpx.AsyncClient, store: Store, spec: JobSpec
) -> None:
    values = {
        "{job_id}": (await finished(store, spec)).job_id,
        "{version}/{name:path}": "1/site.css",
        "{name}": "losses",
        "{file}": "history.csv",
    }
    for path in GETS:
        for name, value in values.items():
            path = path.replace(name, value)
        head, get = await api.head(path), await api.get(path)
        assert (head.status_code, head.content) == (get.status_code, b""), path
        assert head.headers.get("content-type") == get.headers.get("content-type")
        if path != "/metrics":  # whose content changes with every request
            assert head.headers.get("content-length") == get.headers.get("content-length")


async def test_head_of_an_endless_stream_ends(api: httpx.AsyncClient, body: dict[str, Any]) -> None:
    path = (await api.post("/v1/jobs", json=body)).headers["location"]
    for stream in (f"{path}/events", ENDLESS):
        head = await api.head(stream)
        assert head.status_code == 200
        assert head.headers["content-type"].startswith("text/event-stream")


async def test_a_refused_method_is_answered_with_all_allowed_ones(api: httpx.AsyncClient) -> None:
    for path, allowed in {
        "/v1/jobs": "GET, HEAD, POST",
        "/v1/jobs/job_1": "DELETE, GET, HEAD, PATCH",
        "/v1/jobs/job_1/cancel": "POST",
        f"/v1/code/{'0' * 64}": "GET, HEAD, PUT",
        "/sign-in": "GET, HEAD, POST",
        "/openapi.json": "GET, HEAD",
    }.items():
        refused = await api.put(path) if "PUT" not in allowed else await api.post(path)
        assert allowed in problem(refused, 405, "method_not_allowed").detail
        assert refused.headers["allow"] == allowed


@pytest.mark.parametrize(
    ("header", "is_known"),
    [
        ('"7"', True),
        ('W/"7"', True),
        ('"6", W/"7" , "8"', True),
        ("*", True),
        ('"6", "8"', False),
        ("7", False),
        ('"77"', False),
        (None, False),
    ],
)
def test_an_entity_tag_is_known_weak_in_a_list_and_by_a_star(
    header: str | None, is_known: bool
) -> None:
    assert matches(header, '"7"') is is_known


async def test_a_known_job_and_a_known_figure_are_not_sent_again(
    api: httpx.AsyncClient, store: Store, spec: JobSpec
) -> None:
    path = f"/v1/jobs/{(await finished(store, spec)).job_id}"
    for each in (path, f"{path}/figures/losses"):
        tag = (await api.get(each)).headers["etag"]
        for header in (f"W/{tag}", f'"other", {tag}', "*"):
            answer = await api.get(each, headers={"If-None-Match": header})
            assert (answer.status_code, answer.headers["etag"]) == (304, tag)
        assert (await api.get(each, headers={"If-None-Match": '"other"'})).status_code == 200


async def test_a_wrong_query_is_refused_by_its_parameter(api: httpx.AsyncClient) -> None:
    for query, field, words in (
        ("stauts=queued", "query.stauts", "did you mean status?"),
        ("page=2", "query.page", "known are status, tag, after, limit"),
        ("status=sleeping", "query.status", "'queued'"),
        ("status=queued&status=", "query.status", "'queued'"),
        ("after=yesterday", "query.after", "job_01JD7X8Z9T3V5W6Y7A8B9C0D1E"),
        ("tag=team", "query.tag", "pattern"),
        ("limit=5&limit=7", "query.limit", "must be given once, got it 2 times"),
        ("limit=ten", "query.limit", "whole number"),
    ):
        (error,) = problem(await api.get(f"/v1/jobs?{query}"), 422, "invalid_fields").errors
        assert error.path == field
        assert words in error.message


async def test_every_route_refuses_an_unknown_parameter(
    api: httpx.AsyncClient, store: Store, spec: JobSpec
) -> None:
    ended = (await finished(store, spec)).job_id
    for route in ROUTES:
        path = str(route.path)
        if not path.startswith("/v1") or "{sha256}" in path:
            continue
        path = path.replace("{job_id}", ended).replace("{name}", "losses")
        for method in route.methods or ():
            answer = await api.request(method, f"{path}?verbose=1", json={})
            fields = [error.path for error in problem(answer, 422, "invalid_fields").errors]
            assert "query.verbose" in fields, (method, path)


async def test_a_malformed_cursor_of_logs_and_events_is_refused(
    api: httpx.AsyncClient, body: dict[str, Any]
) -> None:
    path = (await api.post("/v1/jobs", json=body)).headers["location"]
    for part in ("logs", "events"):
        refused = problem(await api.get(f"{path}/{part}?after=1-x"), 422, "invalid_fields")
        assert refused.errors[0].path == "query.after"
        assert "must have the form 1763912345678-0" in refused.errors[0].message


async def test_states_and_tags_combine(api: httpx.AsyncClient, body: dict[str, Any]) -> None:
    made = {}
    for name, tags in {
        "a": {"team": "vision", "env:prod": "eu:1"},
        "b": {"team": "text"},
        "c": {"team": "text", "stage": "x:y"},
        "d": {},
    }.items():
        answer = await api.post("/v1/jobs", json=body | {"name": name, "tags": tags})
        made[name] = answer.headers["location"]
    await api.post(f"{made['b']}/cancel")

    async def named(query: str) -> str:
        found: list[str] = []
        after = ""
        while True:  # pages of one job each
            page = (await api.get(f"/v1/jobs?limit=1&{query}{after}")).json()
            found += [JobRecord.model_validate(job).name for job in page["data"]]
            if not page["has_more"]:
                return "".join(sorted(found))
            after = f"&after={page['next']}"

    assert await named("status=queued") == "acd"
    assert await named("status=queued&status=cancelled") == "abcd"
    assert await named("status=cancelled&status=failed") == "b"
    assert await named("tag=team:text") == "bc"
    assert await named("tag=team:text&tag=team:vision") == "abc"
    assert await named("tag=team:text&tag=stage:x:y") == "c"
    assert await named("tag=env:prod:eu:1") == "a"
    assert await named("status=queued&tag=team:text") == "c"


async def test_a_body_without_its_content_type_is_refused_with_the_header(
    api: httpx.AsyncClient,
) -> None:
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    for headers in (form, {}, {"Content-Type": "text/plain"}):
        answer = await api.post("/v1/jobs", content=b'{"name": "x"}', headers=headers)
        detail = problem(answer, 415, "not_json").detail
        assert "-H 'Content-Type: application/json'" in detail


async def test_a_repeated_key_is_refused_with_its_line(api: httpx.AsyncClient) -> None:
    text = '{"name": "a",\n "tags": {"x": "{\\"name\\": 1}",\n  "x": "2"}}'
    headers = {"Content-Type": "application/json"}
    answer = await api.post("/v1/jobs", content=text.encode(), headers=headers)
    detail = problem(answer, 400, "invalid_json").detail
    assert "the key 'x' of line 3 stands in line 2 already" in detail
    for content, words in (
        ("[" * 3000, "nested too deep"),
        ("1" * 5000, "a number is too long"),
    ):
        answer = await api.post("/v1/jobs", content=content, headers=headers)
        assert words in problem(answer, 400, "invalid_json").detail


async def test_names_and_tags_hold_no_control_characters(
    api: httpx.AsyncClient, body: dict[str, Any]
) -> None:
    for change, path in (
        ({"name": "a\x1b[31m"}, "name"),
        ({"name": "a\nb"}, "name"),
        ({"name": "abc\u202edcb"}, "name"),
        ({"tags": {"a": "b\x07"}}, "tags.a"),
        ({"tags": {"a\x9b": "b"}}, "tags.a\x9b"),
    ):
        answer = problem(await api.post("/v1/jobs", json=body | change), 422, "invalid_fields")
        (error,) = answer.errors
        assert error.path == path
        assert error.message.startswith("must hold no control characters, got U+")


async def test_a_stored_job_with_such_a_name_stays_readable(store: Store, spec: JobSpec) -> None:
    fields = spec.model_dump() | {"name": "a\x1bb"}
    assert JobSpec.accepted(fields).name == "a\x1bb"


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/?statu=running", "statu: is not a parameter of /; did you mean status?"),
        ("/?status=running&status=failed", "status: must be given once"),
        ("/?sort=colour", "sort: "),
        ("/cluster?x=1", "x: is not a parameter of /cluster"),
        ("/new?lik=job", "lik: is not a parameter of /new; did you mean like?"),
        ("/docs?x=%3Cscript%3E&x%3Cb%3E=1", "x&lt;b&gt;: is not a parameter"),
    ],
)
async def test_pages_refuse_unknown_parameters(
    api: httpx.AsyncClient, path: str, words: str
) -> None:
    answer = await api.get(path)
    assert answer.status_code == 422, path
    assert words in answer.text
    assert "<b>" not in answer.text.replace("<b>GET", "")
    assert (await api.get("/sign-in?error=access_denied")).status_code == 200


async def test_every_route_with_a_json_body_refuses_a_key_twice_and_an_unstated_type(
    api: httpx.AsyncClient,
) -> None:
    document = (await api.get("/openapi.json")).json()
    asked = 0
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            content = operation.get("requestBody", {}).get("content", {})
            if "application/json" not in content or not path.startswith("/v1/"):
                continue
            asked += 1
            url = path.replace("{", "").replace("}", "")
            json_type = {"Content-Type": "application/json"}
            twice = await api.request(method, url, content='{"a": 1, "a": 2}', headers=json_type)
            assert "stands in line 1 already" in problem(twice, 400, "invalid_json").detail, path
            form = {"Content-Type": "application/x-www-form-urlencoded"}
            plain = await api.request(method, url, content="{}", headers=form)
            assert problem(plain, 415, "not_json").errors == [], path
    assert asked >= 7


async def test_half_of_a_surrogate_pair_is_refused_by_its_field(
    api: httpx.AsyncClient, spec: JobSpec
) -> None:
    body = spec.model_dump(mode="json") | {"name": "HALF"}
    headers = {"Content-Type": "application/json"}
    text = json.dumps(body).replace("HALF", r"\ud800")
    refused = await api.post("/v1/jobs", content=text, headers=headers)
    (error,) = problem(refused, 422, "invalid_fields").errors
    assert error.path == "name"
    assert "half of a surrogate pair" in error.message
