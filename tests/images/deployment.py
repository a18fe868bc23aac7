"""docker-compose.yml as an operator runs it: settings, compose's commands, a key, a client."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from drmad_client import Client
from drmad_client.http.job_handle import Job
from tests.deploy.containers import ROOT
from tests.images.base_images import BaseImages
from tests.images.engine import Host
from tests.images.package_index import PackageIndex

BUILT = ("api", "scheduler", "ray-worker")
"""Services whose images have targets of their own and need no GPU."""
RUNNING = tuple(
    name
    for name, service in yaml.safe_load((ROOT / "docker-compose.yml").read_text())[
        "services"
    ].items()
    if "profiles" not in service
)
_HEALTHY_S = 600.0

JOB: dict[str, Any] = {
    "problem": {
        "data": {"name": "digits", "train": 200, "valid": 100, "test": 100, "label_noise": 0.5}
    },
    "hyperparameters": [{"kind": "sample_weight"}],
    "training": {"steps": 1500, "batch_size": 50},
    "hypergradient": {"method": "shortcut", "horizon": 20},
    "meta": {"iterations": 30},
    "resources": {"cpus": 1},
}


@dataclasses.dataclass
class Deployment:
    """One project of compose, in the folder of its sources."""

    host: Host
    settings: dict[str, str]
    sources: Path = ROOT
    key: str = ""

    @property
    def url(self) -> str:
        return f"http://{self.settings['DRMAD_PUBLISH']}"

    def compose(self, *arguments: str, check: bool = True, stdin: bytes = b"") -> str:
        return self.run(*arguments, check=check, stdin=stdin).stdout.decode(errors="replace")

    def run(
        self, *arguments: str, check: bool = True, stdin: bytes = b""
    ) -> subprocess.CompletedProcess[bytes]:
        """`docker compose` with an .env of our settings, and nothing of this process's."""
        lines = [f"{name}={value}" for name, value in self.settings.items()]
        file = Path(self.settings["DRMAD_DATA"]).parent / "settings.env"
        file.write_text("\n".join(lines) + "\n")
        command = [self.host.docker_path, "compose", "--project-directory", str(self.sources)]
        command += ["--file", str(self.sources / "docker-compose.yml"), "--env-file", str(file)]
        return self.host.run([*command, *arguments], check=check, stdin=stdin)

    def up(self, *arguments: str) -> float:
        """Starts what is not running; returns the seconds until everything is healthy."""
        begun = time.monotonic()
        self.compose("up", "--detach", "--no-build", *arguments)
        self.wait_until_healthy()
        return time.monotonic() - begun

    def wait_until_healthy(self, services: tuple[str, ...] = RUNNING) -> None:
        deadline = time.monotonic() + _HEALTHY_S
        while missing := {*services} - {
            c["Service"] for c in self.containers() if c["Health"] == "healthy"
        }:
            if time.monotonic() > deadline:
                logs = self.compose("logs", "--tail", "30", *missing)
                raise AssertionError(f"not healthy: {sorted(missing)}: {logs[-6000:]}")
            time.sleep(1.0)
        unhealthy = [c["Name"] for c in self.containers() if c["Health"] != "healthy"]
        if unhealthy:  # the second of two workers, for instance
            time.sleep(1.0)
            self.wait_until_healthy(services)

    def containers(self) -> list[dict[str, Any]]:
        listed = self.compose("ps", "--format", "json").splitlines()
        return [json.loads(line) for line in listed]

    def make_key(self) -> None:
        create = ("drmad", "keys", "create", "--tenant", "me", "--scope", "submit")
        made = self.compose("run", "--rm", "-T", "api", *create)
        self.key = made.split()[-1]

    @contextlib.contextmanager
    def client(self) -> Iterator[Client]:
        with Client(self.url, self.key) as client:
            yield client

    def submit(self, name: str) -> str:
        with self.client() as client:
            return client.jobs.create({**JOB, "name": name}).id

    def wait_for_commits(self, job_id: str, count: int, timeout_s: float = 600.0) -> None:
        deadline = time.monotonic() + timeout_s
        with self.client() as client:
            while client.jobs.retrieve(job_id).progress.iteration < count:
                if time.monotonic() > deadline:
                    raise AssertionError(f"{job_id} has not committed {count} meta-iterations")
                time.sleep(0.5)

    def ended(self, job_id: str, timeout_s: float = 900.0) -> Job:
        """The job once it has succeeded; the API may be away for a while."""
        with self.client() as client:
            job = client.jobs.wait(job_id, timeout_s=timeout_s)
        if job.status != "succeeded":
            raise AssertionError(f"{job_id} {job.status}: {job.message}")
        return job

    def history(self, job_id: str) -> list[dict[str, Any]]:
        """What must be the same in every run of the job, bit for bit."""
        with self.client() as client:
            records = list(client.jobs.history(job_id))
        names = ("iteration", "validation_loss", "hypergradient_norm", "metrics")
        return [{name: getattr(record, name) for name in names} for record in records]


@contextlib.contextmanager
def deployment(
    host: Host, bases: BaseImages, index: PackageIndex, folder: Path
) -> Iterator[Deployment]:
    """Compose's project with settings of its own, taken down with its volumes at the end."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    data = folder / "data"
    data.mkdir(exist_ok=True)
    settings = {
        "COMPOSE_PROJECT_NAME": "drmad-images-test",
        "DRMAD_REDIS_PASSWORD": secrets.token_hex(32),
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "DRMAD_PUBLISH": f"127.0.0.1:{port}",
        "DRMAD_DATA": str(data),
        "DRMAD_VERSION": "current",
        "DRMAD_PYTHON_IMAGE": bases.python,
        "DRMAD_REDIS_IMAGE": bases.redis,
        "DRMAD_TORCH_INDEX": index.torch_index,
        "DRMAD_PIP_CONF": str(index.pip_configuration),
        "DRMAD_CA_CERTIFICATES": str(index.certificates),
    }
    one = Deployment(host, settings)
    one.compose("down", "--volumes", "--remove-orphans")
    try:
        yield one
    finally:
        one.compose("down", "--volumes", "--remove-orphans", check=False)


def other_version(folder: Path) -> tuple[Path, str]:
    """A copy of these sources that calls itself another version."""
    copy = folder / "next"
    ignored = shutil.ignore_patterns("__pycache__", "images")
    for name in ("client", "workers", "service", "deploy"):
        shutil.copytree(ROOT / name, copy / name, ignore=ignored)
    for name in (
        "pyproject.toml",
        "README.md",
        "LICENSE",
        "requirements.lock",
        "docker-compose.yml",
        ".dockerignore",
    ):
        shutil.copy(ROOT / name, copy / name)
    file = copy / "client" / "drmad_client" / "version.py"
    text = file.read_text()
    version = "0.999.0"
    file.write_text(text[: text.index("__version__")] + f'__version__ = "{version}"\n')
    return copy, version
