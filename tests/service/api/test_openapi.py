"""schemathesis over the OpenAPI document: whatever is sent, the answer is one that is documented.

`python -m tests.service.api.test_openapi 5000` runs at least so many cases and prints a summary.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Err
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from drmad_client.spec.job import JobSpec
from drmad_service.api.app import create_app
from drmad_service.operations.embedded import EmbeddedRedis
from drmad_service.settings import ApiSettings
from drmad_service.store import Store
from drmad_service.store.access.connection import connect
from drmad_service.store.layout import keys
from tests.service.api.serving import serving
from tests.service.api.test_api import finished

KEY = "drmad_" + "k" * 43
HEADERS = {"Authorization": f"Bearer {KEY}"}
CHECKS: list[Any] = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
SPEC = JobSpec.model_validate(
    {
        "name": "digits",
        "problem": {"data": {"name": "digits"}},
        "hyperparameters": [{"kind": "sample_weight"}],
        "training": {"steps": 20, "batch_size": 10},
        "meta": {"iterations": 3},
    }
)


@schemathesis.serializer("application/zip")
def _zipped(context: Any, value: Any) -> Any:
    return {"data": value if isinstance(value, bytes) else str(value).encode()}


STREAM = "/v1/jobs/{job_id}/events"


@contextmanager
def service(redis_url: str) -> Iterator[tuple[str, list[str], str]]:
    """Its URL, jobs in several states, and one that has ended and that nobody may change."""
    jobs, ended = asyncio.run(_jobs(redis_url))
    with tempfile.TemporaryDirectory() as folder:
        settings = ApiSettings(
            redis_url=redis_url,
            data_dir=Path(folder),
            local_key=KEY,
            longest_wait_s=0.1,
            check_wait_s=0.05,
        )
        with serving(settings) as (host, port):
            yield f"http://{host}:{port}", jobs, ended


async def _jobs(redis_url: str) -> tuple[list[str], str]:
    async with connect(redis_url) as redis:
        await redis.flushall()
        store = Store(redis)
        ended = [(await finished(store, SPEC)).job_id for _ in range(2)]
        waiting = (await store.create(SPEC))[0].id
        cancelled = (await store.create(SPEC))[0].id
        await store.cancel(cancelled)
        await redis.delete(keys.CLUSTER)  # no scheduler: a preflight is refused, not waited for
        return [ended[0], waiting, cancelled], ended[1]


def attempt(
    url: str, jobs: list[str], ended: str, cases: int, seed: int = 0
) -> Counter[tuple[str, int]]:
    """Send about so many cases to each operation. Returns how often each was answered with what.

    Raises:
        Exception: an answer was not as documented; hypothesis reports the smallest such request.
    """
    schema = schemathesis.openapi.from_dict(
        create_app(ApiSettings(redis_url="unix:///nowhere")).openapi()
    )
    answered: Counter[tuple[str, int]] = Counter()
    session = requests.Session()
    for result in schema.get_all_operations():
        assert not isinstance(result, Err), result
        operation = result.ok()
        known = [ended] if operation.path == STREAM else jobs
        test = _test_of(operation, known, url, session, answered)
        settings = hypothesis.settings(
            max_examples=cases,
            deadline=None,
            database=None,
            derandomize=seed == 0,
            phases=[Phase.explicit, Phase.generate, Phase.shrink],
            suppress_health_check=list(HealthCheck),
        )
        hypothesis.seed(seed)(settings(test))() if seed else settings(test)()
    return answered


def _test_of(
    operation: Any,
    known: list[str],
    url: str,
    session: requests.Session,
    answered: Counter[tuple[str, int]],
) -> Callable[[], None]:
    modes = [operation.as_strategy(generation_mode=mode) for mode in GenerationMode]

    @given(case=st.one_of(modes), job_id=st.sampled_from([None, *known]))
    def test(case: Any, job_id: str | None) -> None:
        if job_id is not None and "job_id" in (case.path_parameters or {}):
            case.path_parameters["job_id"] = job_id
        response = case.call(base_url=url, session=session, headers=HEADERS, timeout=120)
        answered[operation.label, response.status_code] += 1
        case.validate_response(response, checks=CHECKS, headers=HEADERS)

    return test


def test_every_answer_is_documented(redis_url: str) -> None:
    with service(redis_url) as (url, jobs, ended):
        answered = attempt(url, jobs, ended, cases=10)
    assert answered.total() >= 240
    assert not [answer for answer in answered if answer[1] >= 500]


@pytest.mark.full
def test_every_one_of_thousands_of_answers_is_documented(redis_url: str) -> None:
    assert not [answer for answer in many(redis_url, 5000, seed=1) if answer[1] >= 500]


def many(redis_url: str, cases: int, seed: int) -> Counter[tuple[str, int]]:
    """Go on with the next seed until so many cases were sent."""
    answered: Counter[tuple[str, int]] = Counter()
    with service(redis_url) as (url, jobs, ended):
        while answered.total() < cases:
            answered += attempt(url, jobs, ended, cases=60, seed=seed)
            seed += 1
    return answered


def main(cases: int, seed: int) -> None:
    """Run until so many cases were sent, and print a table of the answers."""
    began = time.monotonic()
    redis = EmbeddedRedis(Path(tempfile.mkdtemp()))
    redis.start()
    try:
        answered = many(redis.url, cases, seed)
    finally:
        redis.stop()
    print(f"{answered.total()} cases in {time.monotonic() - began:.0f} s, none refuted")
    print("| operation | " + " | ".join(map(str, sorted({s for _, s in answered}))) + " |")
    statuses = sorted({status for _, status in answered})
    print("|---|" + "---|" * len(statuses))
    for label in sorted({label for label, _ in answered}):
        counts = " | ".join(str(answered.get((label, status), "")) for status in statuses)
        print(f"| `{label}` | {counts} |")


if __name__ == "__main__":
    main(int(sys.argv[1]), seed=int(sys.argv[2]) if len(sys.argv) > 2 else 1)
