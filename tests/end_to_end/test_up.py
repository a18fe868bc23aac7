"""`drmad up` and `drmad demo`, as a newcomer meets them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from drmad_client.http.job_handle import Job
from drmad_client.records.status import JobStatus
from tests.end_to_end.collector import collector
from tests.end_to_end.running import WAIT_S, Service, alive, descendants, free_port
from tests.end_to_end.test_tuning import example

SHORT = example("clean-digits.yaml") | {"meta": {"iterations": 2}}


def test_interrupt_stops_everything_and_the_next_start_goes_on(tmp_path: Path) -> None:
    """The first run also exports all of its spans to OpenTelemetry's collector."""
    service = Service(tmp_path / "home", "--cpus", "1")
    with collector() as (address, spans):
        # Sent as they end: a loaded machine may kill a process before it has sent the last ones.
        service.environment |= {
            "OTEL_EXPORTER_OTLP_ENDPOINT": address,
            "OTEL_BSP_SCHEDULE_DELAY": "200",
        }
        finished, long = _interrupted(service)
        del service.environment["OTEL_EXPORTER_OTLP_ENDPOINT"]
    submitted = [span for span in spans if span.name == "POST /v1/jobs"]
    assert [(s.service, s.attributes["http.response.status_code"]) for s in submitted] == [
        ("drmad-api", 201)
    ] * 2
    driven = [span for span in spans if span.service == "drmad-scheduler"]
    claims = [s.attributes["drmad.job_id"] for s in driven if s.name == "claim"]
    assert claims == [finished.id, long.id]
    computed = [
        (span.attributes["drmad.job_id"], span.attributes["drmad.iteration"])
        for span in driven
        if span.name == "meta-iteration" and span.seconds > 0
    ]
    assert computed[:4] == [(finished.id, 0), (finished.id, 1), (long.id, 0), (long.id, 1)]
    service.start()
    with service.client() as client:
        assert client.jobs.retrieve(finished.id) == finished
        resumed = client.jobs.wait(long.id, timeout_s=WAIT_S)
        again = client.jobs.wait(
            client.jobs.create(SHORT | {"meta": {"iterations": 6}}).id, timeout_s=WAIT_S
        )
        histories = [
            [(r.iteration, r.validation_loss) for r in client.jobs.history(job.id)]
            for job in (resumed, again)
        ]
    assert [t.reason for t in resumed.transitions].count("scheduler_stopped") == 1
    assert [iteration for iteration, _ in histories[0]] == list(range(6))
    assert histories[0] == histories[1]
    assert resumed.status is JobStatus.SUCCEEDED
    service.interrupt()


def _interrupted(service: Service) -> tuple[Job, Job]:
    """A job that was over when the service was stopped, and one that was not."""
    service.start()
    assert service.process is not None
    with service.client() as client:
        finished = client.jobs.wait(client.jobs.create(SHORT).id, timeout_s=WAIT_S)
        long = client.jobs.create(SHORT | {"meta": {"iterations": 6}})
        for event in client.jobs.events(long.id):
            if event.type == "iteration" and event.data["iteration"] == 1:
                break
    started = descendants(service.process.pid)
    assert any("raylet" in command for command in started.values())
    assert service.interrupt() < 10.0
    assert [command for pid, command in started.items() if alive(pid)] == []
    return finished, long


def test_demo_shows_what_tuning_gained_and_leaves_nothing_running(tmp_path: Path) -> None:
    home, port = tmp_path / "home", free_port()
    command = ["demo", "--home", str(home), "--port", str(port)]
    started: dict[int, str] = {}
    lines = []
    with subprocess.Popen(
        [sys.executable, "-m", "drmad_client", *command], stdout=subprocess.PIPE, text=True
    ) as demo:
        assert demo.stdout is not None
        for line in demo.stdout:
            lines.append(line)
            started |= descendants(demo.pid)
    assert demo.returncode == 0
    shown = "".join(lines)
    assert shown.count(" %  ") >= 30  # a line per meta-iteration
    for row in ("untuned", "tuned weights", "correctly labelled", "lowest weights"):
        assert row in shown
    assert f"http://127.0.0.1:{port}/sign-in?next=/jobs/job_" in shown
    assert f"drmad up --home {home} --port {port}" in shown
    assert "drmad init mine" in shown
    assert any("raylet" in command for command in started.values())
    assert [command for pid, command in started.items() if alive(pid)] == []
