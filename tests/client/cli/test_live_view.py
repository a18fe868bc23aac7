from __future__ import annotations

import io
import re

import pytest
from rich.cells import cell_len
from rich.console import Console

from drmad_client.cli.output.live_view import follow
from drmad_client.cli.output.tables import job_facts, jobs_table
from drmad_client.durations import duration
from drmad_client.http.client import Client
from drmad_client.records.status import JobStatus
from tests.client import samples
from tests.client.http import fake_service
from tests.client.http.fake_service import FakeService

JOB = f"/v1/jobs/{samples.ID}"


def serve(service: FakeService, status: JobStatus) -> None:
    end = [*samples.life()[:-1], samples.status_event(7, status)]
    service.on(
        "GET",
        JOB,
        fake_service.record(samples.job(JobStatus.QUEUED)),
        fake_service.record(samples.job(status, 3)),
    )
    service.on(
        "GET", f"{JOB}/events", fake_service.stream([*end[:4], samples.progress_event(7), *end[4:]])
    )


def test_a_followed_job_prints_plain_lines_outside_a_terminal(
    client: Client, service: FakeService
) -> None:
    serve(service, JobStatus.SUCCEEDED)
    text = io.StringIO()
    assert follow(client, samples.ID, Console(file=text, width=80)).status == "succeeded"
    assert text.getvalue().splitlines() == [
        "queued: accepted",
        "running: 1 replica is ready",
        "iteration  valid. loss  valid. error  test error  hypergradient  seconds",
        "        1      1.00000       12.50 %     25.00 %           0.01     1.50",
        "warning: the loss\u2028 grows".splitlines()[0],
        " grows",
        "        2      0.50000       12.50 %     25.00 %           0.01     1.50  best",
        "        3      0.33333       12.50 %     25.00 %           0.01     1.50",
        "succeeded after 41 s; best: meta-iteration 3, validation loss 0.25, "
        "validation error 5.00 %, test error 6.25 %",
    ]


def test_a_terminal_gets_a_bar_too(client: Client, service: FakeService) -> None:
    serve(service, JobStatus.SUCCEEDED)
    text = io.StringIO()
    console = Console(file=text, width=120, force_terminal=True, color_system=None)
    follow(client, samples.ID, console)
    drawn = text.getvalue()
    assert "clean digits" in drawn
    assert "3/3" in drawn
    assert "forward 7/100, 3 min 20 s left" in drawn


def test_a_failed_job_ends_with_its_cause(client: Client, service: FakeService) -> None:
    serve(service, JobStatus.FAILED)
    text = io.StringIO()
    assert follow(client, samples.ID, Console(file=text)).status == "failed"
    assert text.getvalue().splitlines()[-1] == "failed after 41 s: the loss became NaN"


def test_one_job_is_shown_whole() -> None:
    console = Console(file=io.StringIO(), width=100)
    with console.capture() as shown:
        console.print(job_facts(samples.job(JobStatus.FAILED, 2)))
    for words in (
        samples.ID,
        "2 of 3 meta-iterations",
        "meta-iteration 2, validation loss 0.25",
        "the loss became NaN  [training_diverged]",
        "sample_weight: sample_weight, 1000, sigmoid",
        "team:vision",
    ):
        assert words in shown.get()


@pytest.mark.parametrize("width", [80, 120, 200])
@pytest.mark.parametrize("name", ["a", "begin" + "x" * 190 + "close", "[red]" * 40, "\u6f22" * 100])
def test_a_table_keeps_its_columns_and_names_give_way_in_the_middle(width: int, name: str) -> None:
    console = Console(file=io.StringIO(), width=width)
    jobs = [
        samples.job(JobStatus.CANCELLING, 2).model_copy(update={"name": name}),
        samples.job(JobStatus.QUEUED, name="short"),
    ]
    with console.capture() as shown:
        console.print(jobs_table(jobs, width))
    heading, *rows = shown.get().splitlines()
    assert len(rows) == 2
    for column in ("ID", "NAME", "STATUS", "PROGRESS", "BEST LOSS", "CREATED"):
        assert column in heading
    for row, status in zip(rows, ("cancelling", "queued"), strict=True):
        assert cell_len(row) <= width
        assert row.startswith(f"{samples.ID} ")
        assert status in row
        assert row.rstrip().endswith(" ago")
    if "begin" in name:
        assert re.search(r"be\w*…\w*se ", rows[0])
    if width == 200 and len(name) < 100:
        assert name in rows[0]


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (-1, "0 s"),
        (41.4, "41 s"),
        (60, "1 min"),
        (200, "3 min 20 s"),
        (3600, "1 h"),
        (7500, "2 h 5 min"),
        (273_600, "3 d 4 h"),
    ],
)
def test_durations_are_for_people(seconds: float, words: str) -> None:
    assert duration(seconds) == words
