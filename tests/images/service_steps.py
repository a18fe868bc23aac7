"""The service as compose runs it: keys, jobs, dashboard, health, walls, scale."""

from __future__ import annotations

import json
import time

from playwright.sync_api import expect

from tests import browser as browsers
from tests.browser import Trouble
from tests.images.deployment import RUNNING, Deployment
from tests.images.engine import CommandFailed
from tests.images.report import Report

_REACHES = """
import socket, sys
host, port = sys.argv[1], int(sys.argv[2])
try:
    socket.create_connection((host, port), timeout=5).close()
except OSError as error:
    sys.exit(str(error))
"""
_WAYS = (
    ("api", "redis", 6379, True),
    ("scheduler", "redis", 6379, True),
    ("scheduler", "ray-driver", 6390, True),
    ("scheduler", "ray-head", 6381, False),
    ("ray-driver", "ray-head", 6381, True),
    ("ray-driver", "redis", 6379, False),
    ("ray-worker", "ray-head", 6381, True),
    ("ray-worker", "redis", 6379, False),
    ("ray-worker", "api", 8080, False),
    ("ray-head", "redis", 6379, False),
    ("api", "ray-head", 6381, False),
)


def start(one: Deployment, report: Report) -> None:
    with report.step("The API refuses to start without a key, and says how to make one") as step:
        refused = one.run("run", "--rm", "-T", "api", check=False)
        said = (refused.stdout + refused.stderr).decode()
        assert refused.returncode != 0
        assert "drmad keys create" in said, said
        step.seen = f"exit status {refused.returncode}, names `drmad keys create`"
    with report.step(
        "`docker compose run --rm api drmad keys create` makes the first key", True
    ) as step:
        one.make_key()
        assert len(one.key) > 30
        step.seen = "a key"
    with report.step("`docker compose up -d`: all parts become healthy", True) as step:
        step.seen = f"{len(RUNNING)} healthy in {one.up():.0f} s"


def undisturbed(one: Deployment, report: Report) -> list[dict[str, object]]:
    """A job from outside; returns its history, with which others are compared."""
    with report.step("A job is submitted, followed and read from outside", True) as step:
        job_id = one.submit("undisturbed")
        job = one.ended(job_id)
        history = one.history(job_id)
        assert [record["iteration"] for record in history] == list(range(30))
        assert job.best is not None
        error = job.best.metrics["test_error"]
        step.seen = f"30 meta-iterations, best test error {error:.1%}"
    with report.step("The dashboard in a browser: sign in with the key, open the job") as step:
        trouble = Trouble()
        with browsers.chromium() as browser, browsers.window(browser, trouble) as (_, page):
            page.goto(f"{one.url}/")
            page.get_by_label("API key").fill(one.key)
            page.get_by_role("button", name="Sign in").click()
            page.get_by_role("link", name="undisturbed").first.click()
            expect(page.locator("#facts .chip").first).to_have_text("succeeded", timeout=60_000)
            expect(page.locator('job-chart[name="losses"] [data-points]')).to_be_visible(
                timeout=60_000
            )
        assert trouble.found == [], trouble.found
        step.seen = "signed in, state and curve shown, nothing in the console"
    return history


def walls(one: Deployment, report: Report) -> None:
    with report.step("Root file systems are read-only; nobody is root or has a capability") as step:
        for service in RUNNING:
            _exec(one, service, "! touch /anywhere 2>/dev/null && test $(id -u) != 0")
            status = _exec(one, service, "grep CapEff /proc/1/status; cat /proc/1/comm")
            assert int(status.split()[1], 16) == 0, status
        step.seen = f"all {len(RUNNING)}"
    with report.step("Networks: who reaches whom") as step:
        for service, host, port, expected in _WAYS:
            command = ["exec", "-T", service, "python", "-", host, str(port)]
            done = one.run(*command, check=False, stdin=_REACHES.encode())
            assert (done.returncode == 0) is expected, (service, host, done.stderr)
        step.seen = "; ".join(f"{a} → {b} {'yes' if w else 'no'}" for a, b, _, w in _WAYS)
    with report.step("No container of the Ray cluster has the password of Redis") as step:
        ray = [service for service in RUNNING if service.startswith("ray-")]
        for service in ray:
            seen = _exec(one, service, "cat /proc/1/environ /proc/self/environ | tr '\\0' '\\n'")
            assert one.settings["RAY_AUTH_TOKEN"] in seen, service
            assert one.settings["DRMAD_REDIS_PASSWORD"] not in seen, service
        step.seen = ", ".join(ray)
    with report.step("`drmad doctor` finds a sound deployment sound") as step:
        for service in ("scheduler", "api"):
            done = one.run("exec", "-T", service, "drmad", "doctor", check=False)
            assert done.returncode == 0, f"{service}: {done.stdout.decode()}"
        step.seen = "exit status 0 in scheduler and API"
    with report.step("Every line of the API's and the scheduler's log is JSON") as step:
        counts = {}
        for service in ("api", "scheduler"):
            lines = one.compose("logs", "--no-log-prefix", service).splitlines()
            others = [line for line in lines if line.strip() and not _is_json(line)]
            assert not others, f"{service}: {others[:5]}"
            counts[service] = len(lines)
        step.seen = ", ".join(f"{service} {count} lines" for service, count in counts.items())


def scale(one: Deployment, report: Report) -> None:
    with report.step(
        "`DRMAD_WORKERS=2` and `up -d` add a worker, which jobs see; `up -d` keeps it"
    ) as step:
        one.settings["DRMAD_WORKERS"] = "2"
        one.up()
        one.up()
        workers = [c for c in one.containers() if c["Service"] == "ray-worker"]
        assert len(workers) == 2
        deadline = time.monotonic() + 120
        with one.client() as client:
            while (cpus := client.cluster().cpus) != 2:
                assert time.monotonic() < deadline, cpus
                time.sleep(1)
        one.settings["DRMAD_WORKERS"] = "1"
        one.up()
        assert len([c for c in one.containers() if c["Service"] == "ray-worker"]) == 1
        step.seen = "2 CPUs for jobs, and one after setting it back"


def _exec(one: Deployment, service: str, script: str) -> str:
    try:
        return one.compose("exec", "-T", service, "sh", "-c", script)
    except CommandFailed as error:
        raise AssertionError(f"{service}: {error}") from error


def _is_json(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False
