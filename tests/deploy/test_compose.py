"""docker-compose.yml: by its specification, and as it runs."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from tests.deploy.containers import ROOT, Engine, can_contain, compose

SECRETS = {"DRMAD_REDIS_PASSWORD": "p" * 32, "RAY_AUTH_TOKEN": "t" * 32}


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    found: dict[str, Any] = compose(SECRETS)["services"]
    return found


def test_file_keeps_to_the_specification(services: dict[str, Any]) -> None:
    folder = resources.files("check_jsonschema") / "builtin_schemas" / "vendor"
    schema = json.loads((folder / "compose-spec.json").read_text())
    document = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    jsonschema.validate(document, schema)
    del document["services"]["redis"]["healthcheck"]["test"]
    document["services"]["redis"]["healthcheck"]["tests"] = []
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(document, schema)


@pytest.mark.parametrize("missing", SECRETS)
def test_nothing_starts_without_its_secrets(missing: str) -> None:
    with pytest.raises(ValueError, match=r"\.env\.example"):
        compose(SECRETS | {missing: ""})


def test_every_variable_is_in_the_example() -> None:
    example = dict(
        line.split("=", 1)
        for line in (ROOT / ".env.example").read_text().splitlines()
        if line and not line.startswith("#")
    )
    used: set[str] = set()

    class Seen(dict[str, str]):
        def get(self, key: str, default: Any = None) -> Any:
            used.add(key)
            return super().get(key, default)

    compose(Seen(SECRETS))
    assert used == set(example)
    assert {name for name, value in example.items() if not value} == set(SECRETS)


def test_every_service_is_checked_restarted_limited_and_without_rights(
    services: dict[str, Any],
) -> None:
    assert set(services) == {
        "redis",
        "api",
        "scheduler",
        "ray-head",
        "ray-worker",
        "ray-worker-gpu",
    }
    for name, service in services.items():
        assert service["healthcheck"]["test"], name
        assert service["restart"] == "unless-stopped", name
        assert set(service["deploy"]["resources"]["limits"]) == {"cpus", "memory"}, name
        assert service["user"].split(":")[0] not in ("", "0", "root"), name
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert "privileged" not in service, name
    gpu = services["ray-worker-gpu"]
    assert (gpu["profiles"], gpu["runtime"]) == (["gpu"], "nvidia")
    (device,) = gpu["deploy"]["resources"]["reservations"]["devices"]
    assert (device["driver"], device["capabilities"]) == ("nvidia", ["gpu"])


def test_only_the_api_is_published_and_user_code_does_not_reach_the_store(
    services: dict[str, Any],
) -> None:
    assert [name for name, service in services.items() if "ports" in service] == ["api"]
    assert services["api"]["ports"] == ["127.0.0.1:8080:8080"]
    for worker in ("ray-worker", "ray-worker-gpu"):
        assert services[worker]["networks"] == ["cluster"]
    assert services["redis"]["networks"] == ["store"]


@pytest.fixture
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    if not can_contain():
        assert not os.environ.get("CI"), "CI must be able to make namespaces"
        pytest.skip("needs root on Linux: network, mount and process namespaces")
    folder = Path(tmp_path_factory.mktemp("compose"))
    for path in (folder, *folder.parents):
        if path.is_relative_to("/tmp") and path != Path("/tmp"):
            path.chmod(path.stat().st_mode | 0o011)
    (folder / "data").mkdir()
    engine = Engine(folder, compose(SECRETS | {"DRMAD_DATA": str(folder / "data")})["services"])
    yield engine
    engine.down()


JOB = """
name: composed
problem: {data: {name: digits, train: 200, valid: 100, test: 100, label_noise: 0.5}}
hyperparameters: [{kind: sample_weight}]
training: {steps: 100, batch_size: 50}
hypergradient: {method: shortcut, horizon: 20}
meta: {iterations: 60}
resources: {cpus: 1}
"""


def test_services_start_as_declared_and_a_job_outlives_its_worker(engine: Engine) -> None:
    engine.up("redis")
    api = engine.prepare("api")
    api.start()
    assert api.process is not None
    assert api.process.wait(60) != 0, "it must not let others in before there is a key"
    assert "drmad keys create" in api.log.read_text()
    made = api.run("drmad", "keys", "create", "--tenant", "team", "--scope", "submit")
    assert made.returncode == 0, made.stderr
    api.environment["DRMAD_API_KEY"] = made.stdout.strip()  # of the commands below
    api.start()
    engine.up("ray-head")
    engine.up("ray-worker", 1)
    engine.up("scheduler")
    api.wait_until_healthy()

    def drmad(*arguments: str) -> str:
        answer = api.run("drmad", *arguments)
        assert answer.returncode == 0, f"{answer.stderr} {api.log.read_text()[-3000:]}"
        return answer.stdout.strip()

    def committed() -> int:
        iteration: int = show()["progress"]["iteration"]
        return iteration

    def show() -> dict[str, Any]:
        shown: dict[str, Any] = json.loads(drmad("show", job_id, "--output", "json"))
        return shown

    assert api.run("tee", "/tmp/job.yaml", stdin=JOB).returncode == 0
    job_id = drmad("submit", "/tmp/job.yaml")
    until(lambda: committed() >= 2)
    engine.containers["ray-worker-1"].terminate()
    engine.up("ray-worker", 2)
    drmad("watch", job_id)
    job = show()
    assert (job["status"], job["tenant"], job["progress"]["iteration"]) == ("succeeded", "team", 60)
    assert "its scheduler was" not in json.dumps(job["transitions"])  # only the worker was lost
    logs = "".join(container.log.read_text() for container in engine.containers.values())
    assert [secret for secret in SECRETS.values() if secret in logs] == []


def until(holds: Callable[[], bool], timeout_s: float = 240.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.1)
