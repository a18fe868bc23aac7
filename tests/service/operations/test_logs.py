"""Every record says of which request, job and tenant it is; secrets are in none."""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from drmad_service import logs

pytestmark = pytest.mark.anyio


class Kept(logging.Handler):
    """Formats as `configure` does, and keeps the lines."""

    def __init__(self, log_format: logs.LogFormat) -> None:
        super().__init__()
        self.lines: list[str] = []
        self.setFormatter(logs.formatter(log_format))
        self.addFilter(logs._with_ids)

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))

    def records(self, action: str) -> list[dict[str, Any]]:
        read = [json.loads(line) for line in self.lines]
        return [record for record in read if record.get("action") == action]


@pytest.fixture
def kept() -> Iterator[Kept]:
    handler, logger = Kept("json"), logging.getLogger("drmad_service")
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    yield handler
    logger.removeHandler(handler)
    logger.setLevel(before)


async def test_request_is_logged_with_its_id_tenant_and_job(
    api: httpx.AsyncClient, body: dict[str, Any], kept: Kept
) -> None:
    created = await api.post("/v1/jobs", json=body)
    job_id = created.json()["id"]
    await api.get(f"/v1/jobs/{job_id}")
    missing = await api.get("/v1/jobs/job_none?token=secret")
    post, get, refused = kept.records("request")
    assert post["request_id"] == created.headers["x-request-id"]
    assert (post["level"], post["method"], post["route"]) == ("INFO", "POST", "/v1/jobs")
    assert (post["status"], post["tenant"], post["logger"]) == (
        201,
        "local",
        "drmad_service.api.middleware.request_log",
    )
    assert (get["level"], get["job_id"]) == ("DEBUG", job_id)
    assert (refused["level"], refused["status"]) == ("INFO", 422)
    assert refused["request_id"] == missing.headers["x-request-id"]
    assert "secret" not in "".join(kept.lines)


async def test_requests_at_once_keep_their_ids_apart(api: httpx.AsyncClient, kept: Kept) -> None:
    answers = await asyncio.gather(*(api.delete(f"/v1/jobs/job_{n}") for n in range(10)))
    logged = {record["job_id"]: record["request_id"] for record in kept.records("request")}
    sent = {f"job_{n}": answer.headers["x-request-id"] for n, answer in enumerate(answers)}
    assert logged == sent


def test_text_has_the_ids_at_its_end_and_keeps_tracebacks() -> None:
    handler, logger = Kept("text"), logging.getLogger("tests.logs")
    logger.addHandler(handler)
    try:
        try:
            raise ValueError("what went wrong")
        except ValueError:
            logger.exception("could not drive", extra={"job_id": "job_1"})
    finally:
        logger.removeHandler(handler)
    first, *rest = handler.lines[0].splitlines()
    assert first.endswith("ERROR tests.logs: could not drive [job_id=job_1]")
    assert rest[0].startswith("  Traceback")
    assert rest[-1] == "  ValueError: what went wrong"


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_nobody_forges_a_record_or_sends_escape_codes(log_format: logs.LogFormat) -> None:
    hostile = "/v1\n2026-01-01 INFO drmad: forged\r\x1b]0;title\x07\x9b31m\u2028\u202e\0"
    handler, logger = Kept(log_format), logging.getLogger("tests.logs")
    logger.addHandler(handler)
    try:
        logger.warning("refused %s", hostile)
        try:
            raise ValueError(hostile)
        except ValueError:
            logger.exception("failed at %s", hostile)
    finally:
        logger.removeHandler(handler)
    for written in handler.lines:
        first, *rest = written.split("\n")
        assert "drmad: forged" in first
        assert all(line.startswith("  ") for line in rest)
        assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u202e]", written)
