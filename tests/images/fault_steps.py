"""Losses, backups and upgrades of what compose runs, each compared with an undisturbed run."""

from __future__ import annotations

import os
import shutil
import signal
import time
import zipfile
from pathlib import Path
from typing import Any

from tests.images.deployment import RUNNING, Deployment, other_version
from tests.images.report import Report

History = list[dict[str, Any]]


def kills(one: Deployment, report: Report, expected: History) -> None:
    for service in RUNNING:
        with report.step(f"The container of {service} is killed while a job runs") as step:
            job_id = one.submit(f"without {service}")
            one.wait_for_commits(job_id, 3)
            (container,) = [c for c in one.containers() if c["Service"] == service]
            kill(one, container["Name"])
            begun = time.monotonic()
            one.wait_until_healthy((service,))
            healthy_s = time.monotonic() - begun
            one.ended(job_id)
            same(expected, one.history(job_id))
            step.seen = f"healthy again after {healthy_s:.0f} s; history bit-identical"
            one.wait_until_healthy()


def kill(one: Deployment, container: str) -> None:
    """From outside: the engine takes its own `kill` for a wish, and does not restart."""
    asked = ("inspect", "--format", "{{.State.Pid}} {{.RestartCount}}", container)
    pid, restarts = map(int, one.host.docker(*asked).split())
    os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + 120
    while int(one.host.docker(*asked).split()[1]) == restarts:
        assert time.monotonic() < deadline, f"{container} was not restarted"
        time.sleep(0.2)


def backups(one: Deployment, report: Report, expected: History, folder: Path) -> None:
    archive = folder / "all.zip"
    with report.step("`exec -T api drmad backup - > all.zip` writes to a file of the host") as step:
        archive.write_bytes(one.run("exec", "-T", "api", "drmad", "backup", "-").stdout)
        ids = jobs_in(archive)
        step.seen = f"{len(ids)} jobs, {archive.stat().st_size / 1e6:.1f} MB"
    with report.step("A backup in `/srv/backups` survives the container; `cp` brings it") as step:
        one.compose("exec", "-T", "api", "drmad", "backup", "/srv/backups/kept.zip")
        one.compose("up", "--detach", "--no-build", "--force-recreate", "--no-deps", "api")
        one.wait_until_healthy(("api",))
        one.compose("cp", "api:/srv/backups/kept.zip", str(folder / "kept.zip"))
        assert jobs_in(folder / "kept.zip") == ids
        step.seen = "the same jobs after the container was made anew"
    with report.step("`DRMAD_BACKUPS` as a folder of the host") as step:
        mounted = folder / "backups"
        mounted.mkdir()
        os.chown(mounted, 10001, 10001)
        one.settings["DRMAD_BACKUPS"] = str(mounted)
        one.up()
        one.compose("exec", "-T", "api", "drmad", "backup", "/srv/backups/all.zip")
        assert jobs_in(mounted / "all.zip") == ids
        step.seen = "written there, readable on the host"
    with report.step("`down -v` deletes all; restore into an empty store") as step:
        before = {job_id: one.history(job_id) for job_id in ids}
        del one.settings["DRMAD_BACKUPS"]
        one.compose("down", "--volumes")
        one.make_key()
        one.up()
        with one.client() as client:
            assert list(client.jobs.list()) == []
        said = one.compose("exec", "-T", "api", "drmad", "restore", "-", stdin=archive.read_bytes())
        assert said.count("restored: succeeded") == len(ids), said
        assert {job_id: one.history(job_id) for job_id in ids} == before
        step.seen = f"{len(ids)} jobs with their histories"


def upgrade(one: Deployment, report: Report, expected: History, folder: Path) -> None:
    sources, version = other_version(folder)
    current = Deployment(one.host, one.settings, one.sources, one.key)
    with report.step("Another version is built beside the running one") as step:
        newer = Deployment(one.host, one.settings | {"DRMAD_VERSION": "next"}, sources, one.key)
        for service in ("api", "scheduler", "ray-worker"):
            newer.compose("build", service)
        step.seen = f"drmad {version} under the tag `next`"
    with report.step("API, scheduler, then Ray's nodes are replaced while a job runs") as step:
        job_id = one.submit("upgraded")
        one.wait_for_commits(job_id, 2)
        one.settings["DRMAD_VERSION"] = "next"
        for services in (["api"], ["scheduler"], ["ray-head", "ray-driver", "ray-worker"]):
            one.compose("up", "--detach", "--no-build", "--no-deps", *services)
            one.wait_until_healthy(tuple(services))
        one.wait_until_healthy()
        one.ended(job_id)
        same(expected, one.history(job_id))
        for service in ("api", "scheduler", "ray-driver", "ray-worker"):
            assert version in one.compose("exec", "-T", service, "drmad", "version")
        step.seen = f"all run {version}; history bit-identical"
    with report.step("Back by `DRMAD_VERSION`") as step:
        one.settings["DRMAD_VERSION"] = current.settings["DRMAD_VERSION"] = "current"
        one.up()
        assert version not in one.compose("exec", "-T", "api", "drmad", "version")
        step.seen = "the former version runs"
    with report.step("`down`, then `up -d`: everything is there; a new job runs") as step:
        before = one.history(job_id)
        one.compose("down")
        seconds = one.up()
        assert one.history(job_id) == before
        again = one.submit("after down and up")
        one.ended(again)
        same(expected, one.history(again))
        step.seen = f"healthy in {seconds:.0f} s; history bit-identical"
    shutil.rmtree(sources)


def same(expected: History, found: History) -> None:
    different = [a["iteration"] for a, b in zip(expected, found, strict=True) if a != b]
    assert not different, f"meta-iterations {different} differ from those of an undisturbed run"


def jobs_in(archive: Path) -> list[str]:
    with zipfile.ZipFile(archive) as opened:
        assert opened.testzip() is None
        names = [n.split("/")[1] for n in opened.namelist() if n.endswith("/job.json")]
    assert names
    return sorted(names)
