"""The images: built as they stand, with what they need and nothing else."""

from __future__ import annotations

import json
import re
import time

from tests.deploy.containers import ROOT
from tests.images.deployment import BUILT, Deployment
from tests.images.report import Image, Report

_TOOLS = ("gcc", "cc", "make", "git", "ld")
_UNLOCKED = {"drmad", "async-timeout"}  # redis needs the latter below Python 3.11.3 alone
_FOLDERS = ("client", "workers", "service")


def build(one: Deployment, report: Report) -> None:
    for service in BUILT:
        with report.step(
            f"`docker compose build {service}` with a registry, index and certificates from .env",
            needed=True,
        ) as step:
            begun = time.monotonic()
            one.compose("build", service)
            seconds = time.monotonic() - begun
            name = f"drmad-{service.removeprefix('ray-')}"
            image = f"{name}:{one.settings['DRMAD_VERSION']}"
            size = int(one.host.docker("image", "inspect", "--format", "{{.Size}}", image))
            report.images.append(Image(name, size / 1e6, len(packages(one, image)), seconds))
            step.seen = f"{size / 1e6:,.0f} MB"


def inspect(one: Deployment, report: Report) -> None:
    locked = set[str]()
    for lock in ("requirements.lock", "deploy/images.lock"):
        locked |= {normal(line) for line in (ROOT / lock).read_text().split("\n") if "==" in line}
    locked |= packages(one, one.settings["DRMAD_PYTHON_IMAGE"])
    certificates = (ROOT / one.settings["DRMAD_CA_CERTIFICATES"]).read_text().strip()[-200:]
    for image in report.images:
        tag = f"{image.name}:{one.settings['DRMAD_VERSION']}"
        with report.step(
            f"{image.name}: no root, no build tools, packages of the lock, labels, "
            "no secret in a layer"
        ) as step:
            found = json.loads(one.host.docker("image", "inspect", tag))[0]["Config"]
            assert found["User"] == "10001", found["User"]
            labels = found["Labels"]
            assert labels["org.opencontainers.image.version"] == one.settings["DRMAD_VERSION"]
            assert labels["org.opencontainers.image.title"] == "drmad"
            script = f"for tool in {' '.join(_TOOLS)}; do command -v $tool; done; true"
            assert within(one, tag, script) == "", "build tools"
            others = {
                name
                for name in packages(one, tag)
                if name not in locked and name.split("==")[0] not in _UNLOCKED
            }
            assert not others, f"not of the lock: {others}"
            files = within(one, tag, "cat /etc/pip.conf /run/secrets/* 2>/dev/null; true")
            assert "cert" not in files
            assert certificates not in files
            history = one.host.docker("history", "--no-trunc", "--format", "{{.CreatedBy}}", tag)
            assert "BEGIN CERTIFICATE" not in history
            torch = "torch" in {name.split("==")[0] for name in packages(one, tag)}
            assert torch is (image.name == "drmad-worker")
            step.seen = f"{image.packages} packages, user 10001"


def packages(one: Deployment, image: str) -> set[str]:
    listed = within(one, image, "python -m pip list --format freeze")
    return {normal(line) for line in listed.splitlines() if "==" in line}


def within(one: Deployment, image: str, script: str) -> str:
    return one.host.docker("run", "--rm", "--network=none", "--entrypoint=sh", image, "-c", script)


def normal(line: str) -> str:
    """A line `name==version` as indexes write it; a build of torch is its version."""
    name, version = re.split("[ ;]", line.strip())[0].split("==")
    return f"{re.sub('[-_.]+', '-', name).lower()}=={version.partition('+')[0]}"
