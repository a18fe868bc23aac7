"""docker-compose.yml: by its specification, and as it runs."""

from __future__ import annotations

import json
import re
from importlib import resources
from typing import Any

import jsonschema
import pytest
import yaml

from tests.deploy.containers import ROOT, compose

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
    optional = {"DRMAD_REVISION"}
    optional |= {f"DRMAD_OIDC_{name}" for name in ("ISSUER", "CLIENT_ID", "GROUPS")}
    optional |= {f"DRMAD_MAIL_{name}" for name in ("SERVER", "DOMAINS", "USER")}
    optional |= {"DRMAD_ROOT_PATH", "DRMAD_PUBLIC_URL"}
    assert {name for name, value in example.items() if not value} == {*SECRETS, *optional}


def test_every_service_is_checked_restarted_limited_and_without_rights(
    services: dict[str, Any],
) -> None:
    assert set(services) == {
        "redis",
        "api",
        "scheduler",
        "ray-driver",
        "ray-head",
        "ray-worker",
        "ray-worker-gpu",
    }
    for name, service in services.items():
        assert service["healthcheck"]["test"], name
        assert service["restart"] == "unless-stopped", name
        limits = service["deploy"]["resources"]["limits"]
        assert set(limits) == {"cpus", "memory", "pids"}, name
        assert float(limits["cpus"]) <= 1, name  # Docker refuses more than the machine has
        assert service["image"].endswith(":latest") or name == "redis", name
        assert service["user"].split(":")[0] not in ("", "0", "root"), name
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert "privileged" not in service, name
    assert services["ray-worker"]["deploy"]["replicas"] in (1, "1")
    gpu = services["ray-worker-gpu"]
    assert (gpu["profiles"], gpu["runtime"]) == (["gpu"], "nvidia")
    (device,) = gpu["deploy"]["resources"]["reservations"]["devices"]
    assert (device["driver"], device["capabilities"]) == ("nvidia", ["gpu"])


def test_builds_take_registry_index_and_certificates_from_the_settings() -> None:
    settings = {
        "DRMAD_PYTHON_IMAGE": "registry.example.com/python:3.11",
        "DRMAD_TORCH_INDEX": "https://mirror.example.com/torch",
        "DRMAD_PIP_CONF": "./pip.conf",
        "DRMAD_CA_CERTIFICATES": "./ca.pem",
    }
    document = compose(SECRETS | settings)
    arguments, text = document["x-build"]["args"], (ROOT / "deploy" / "Dockerfile").read_text()
    assert [*arguments.values()] == [*settings.values()][:2]
    for name in arguments:
        assert f"ARG {name}=" in text
    assert document["services"]["api"]["secrets"] == ["oidc-client"]
    for name in ("oidc-client", "mail-password"):
        assert document["secrets"].pop(name) == {"file": "/dev/null"}
    assert {n: s["file"] for n, s in document["secrets"].items()} == {
        "pip.conf": "./pip.conf",
        "ca-certificates": "./ca.pem",
    }
    for name in document["secrets"]:
        assert text.count(f"--mount=type=secret,id={name}") == len(
            re.findall("pip (?:install --constraint|wheel) ", text)
        )
    built = [service["build"] for service in document["services"].values() if "build" in service]
    assert len(built) == 6
    assert all(build["secrets"] == [*document["secrets"]] for build in built)


def test_only_the_api_is_published_and_user_code_does_not_reach_the_store(
    services: dict[str, Any],
) -> None:
    assert [name for name, service in services.items() if "ports" in service] == ["api"]
    assert services["api"]["ports"] == ["127.0.0.1:8080:8080"]
    for worker in ("ray-worker", "ray-worker-gpu"):
        assert services[worker]["networks"] == ["cluster"]
    assert services["redis"]["networks"] == ["store"]


def test_no_container_of_the_ray_cluster_knows_a_secret_of_the_service(
    services: dict[str, Any],
) -> None:
    """User code gets into each of them: Ray places a task without CPUs wherever it is told to."""
    cluster = {name for name, service in services.items() if "cluster" in service["networks"]}
    assert cluster == {"ray-head", "ray-driver", "ray-worker", "ray-worker-gpu"}
    for name in cluster:
        service = services[name]
        assert "store" not in service["networks"], name
        assert not [key for key in service["environment"] if "REDIS" in key], name
        assert SECRETS["DRMAD_REDIS_PASSWORD"] not in json.dumps(service), name
    scheduler = services["scheduler"]
    assert scheduler["networks"] == ["store", "driver"]
    assert "ray" not in " ".join(scheduler["command"])
    assert [name for name, s in services.items() if "driver" in s["networks"]] == [
        "scheduler",
        "ray-driver",
    ]


def test_the_path_behind_a_proxy_and_mail_are_passed_to_the_process_that_reads_them() -> None:
    given = {
        "DRMAD_ROOT_PATH": "/tuning",
        "DRMAD_PUBLIC_URL": "https://ml.example.com/tuning",
        "DRMAD_MAIL_SERVER": "mail.example.com:465",
        "DRMAD_MAIL_DOMAINS": "example.com",
    }
    services = compose(SECRETS | given)["services"]
    api, scheduler = services["api"]["environment"], services["scheduler"]["environment"]
    assert api["DRMAD_ROOT_PATH"] == "/tuning"
    assert scheduler["DRMAD_PUBLIC_URL"] == "https://ml.example.com/tuning"
    for each in (api, scheduler):
        assert each["DRMAD_MAIL_SERVER"] == "mail.example.com:465"
        assert each["DRMAD_REDIS_URL"].startswith("redis://")
    assert services["scheduler"]["secrets"] == ["mail-password"]
    for name in services.keys() - {"api", "scheduler"}:
        found = services[name].get("environment", {})
        assert not [key for key in found if "MAIL" in key], name
