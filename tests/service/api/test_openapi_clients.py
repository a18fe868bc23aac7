"""What the OpenAPI document promises: curl lines that work, and clients that are generated."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from drmad_service.api.app import create_app
from drmad_service.api.openapi_document import BODIES
from drmad_service.settings import ApiSettings
from tests.client import samples
from tests.service.api.serving import serving

KEY = "k" * 40
NOBODY = "job_01JD7X8Z9T3V5W6Y7A8B9C0D1E"
DOCUMENT: dict[str, Any] = create_app(ApiSettings(redis_url="unix:///nowhere")).openapi()
OPERATIONS = [
    (method, path, operation)
    for path, operations in DOCUMENT["paths"].items()
    for method, operation in operations.items()
]
PLACES = {"RETRAINING_ID": "r", "TENANT": "t"}
KEYLESS = {"/sign-in", "/sign-out", "/healthz", "/readyz", "/openapi.json"}


@pytest.fixture(scope="module")
def url(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with Redis.from_url(redis_url) as redis:
        redis.flushall()
    data = tmp_path_factory.mktemp("data")
    with serving(ApiSettings(redis_url=redis_url, local_key=KEY, data_dir=data)) as (host, port):
        yield f"http://{host}:{port}"


@pytest.mark.parametrize(
    ("method", "path", "operation"), OPERATIONS, ids=[f"{m} {p}" for m, p, _ in OPERATIONS]
)
def test_every_curl_line_reaches_its_route(
    method: str, path: str, operation: dict[str, Any], url: str, tmp_path: Path
) -> None:
    """A job that does not exist is a 404 of its own, after key, form and route are accepted."""
    line: str = operation["x-codeSamples"][0]["source"]
    is_open = path in KEYLESS or path.startswith("/sign-in/")
    assert ("Authorization: Bearer $DRMAD_API_KEY" in line) != is_open
    for name in ("code.zip", "data.npz"):
        (tmp_path / name).write_bytes(b"none")
    given = {"JOB_ID": NOBODY, "NAME": "losses", "SHA256": "0" * 64, "VALIDATION_ID": "v"}
    done = subprocess.run(
        ["bash", "-euc", f"{line} -s -m 20 -o answer -w '%{{http_code}}'"],
        env=os.environ | given | {"DRMAD_URL": url, "DRMAD_API_KEY": KEY, **PLACES},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    answer = (tmp_path / "answer").read_text() if (tmp_path / "answer").exists() else ""
    if is_open:
        assert done.stdout not in ("000", "405", "415", "500"), (line, answer)
        return
    assert done.returncode == 0, (line, done.stderr)
    expected = {"200", "201", "204", "404"}
    if "{sha256}" in path:
        expected |= {"400", "422"}  # the file has another digest
    assert done.stdout in expected, (line, answer)
    if done.stdout == "404":
        assert method == "head" or "there is no resource" not in answer, (line, answer)


def test_every_json_body_has_an_example() -> None:
    asked = {
        (method, path)
        for method, path, operation in OPERATIONS
        if "application/json" in operation.get("requestBody", {}).get("content", {})
        and "security" in operation
    }
    assert asked == set(BODIES)


def test_no_default_is_an_object() -> None:
    def objects(node: Any) -> Iterator[Any]:
        if isinstance(node, dict):
            if isinstance(node.get("default"), dict) and "type" not in node["default"]:
                yield node
            node = list(node.values())
        if isinstance(node, list):
            for each in node:
                yield from objects(each)

    assert list(objects(DOCUMENT["components"])) == []
    ids = [operation["operationId"] for _, _, operation in OPERATIONS]
    assert len(ids) == len(set(ids))


PYTHON = """
import sys
sys.path.insert(0, ".")
from generated.api.jobs import submit_v1_jobs_post as submit
from generated.client import AuthenticatedClient
from generated.models import JobSpec
client = AuthenticatedClient(base_url=sys.argv[1], token=sys.argv[2])
job = submit.sync(client=client, body=JobSpec.from_dict(eval(sys.argv[3])))
print(job.id, job.status)
"""
TYPESCRIPT = """
import createClient from "openapi-fetch";
import type { paths } from "./api.js";
const [url, key, spec] = process.argv.slice(2);
const headers = { Authorization: `Bearer ${key}` };
const client = createClient<paths>({ baseUrl: url, headers });
const { data, error } = await client.POST("/v1/jobs", { body: JSON.parse(spec) });
if (error) throw new Error(JSON.stringify(error));
if (data && "id" in data) console.log(data.id, data.status);
"""


@pytest.mark.full
def test_a_generated_python_client_submits_a_job(url: str, tmp_path: Path) -> None:
    (tmp_path / "openapi.json").write_text(json.dumps(DOCUMENT))
    generate = "uv tool run openapi-python-client generate --meta none --overwrite"
    _run(f"{generate} --path openapi.json --output-path generated", tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", PYTHON, url, KEY, repr(samples.SPEC)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    job_id, status = done.stdout.split()
    assert (job_id[:4], status) == ("job_", "queued")


@pytest.mark.full
def test_a_generated_typescript_client_submits_a_job(url: str, tmp_path: Path) -> None:
    (tmp_path / "openapi.json").write_text(json.dumps(DOCUMENT))
    (tmp_path / "submit.ts").write_text(TYPESCRIPT)
    (tmp_path / "package.json").write_text('{"type": "module", "private": true}')
    _run(
        "npm install --silent typescript@5 openapi-typescript@7 openapi-fetch @types/node@20",
        tmp_path,
    )
    _run("npx openapi-typescript openapi.json -o api.d.ts", tmp_path)
    flags = "--strict --skipLibCheck --module nodenext --target es2022 --types node"
    _run(f"npx tsc {flags} submit.ts", tmp_path)
    done = subprocess.run(
        ["node", "submit.js", url, KEY, json.dumps(samples.SPEC)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    job_id, status = done.stdout.split()
    assert (job_id[:4], status) == ("job_", "queued")


def _run(command: str, folder: Path) -> None:
    done = subprocess.run(
        command.split(), cwd=folder, capture_output=True, text=True, check=False, timeout=600
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
