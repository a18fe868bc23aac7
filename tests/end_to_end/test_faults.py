"""kill -9 of every process, at random moments of a running job: nothing is lost or repeated.

`make test` disturbs one job by each fault in turn, and an online job by some. `make test-full` runs
a job of each mode for each of many faults. Where DRMAD_FAULTS_LOG names a file, rounds that are in
it (those of online jobs in one beside it) are not run again, and the tables of
docs/development/faults.md are written beside it.
"""

from __future__ import annotations

import json
import os
import random
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import pytest

from tests.end_to_end.victim import FAULTS, Outcome, Victim, running

TURNS = [*FAULTS, "replica", "Redis", "API"]


@pytest.fixture(scope="module")
def victim(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Victim]:
    with running(tmp_path_factory.mktemp("home"), iterations=100) as running_victim:
        yield running_victim


def test_job_whose_processes_are_killed_one_after_the_other_goes_on_as_if_nothing_had_been(
    victim: Victim,
) -> None:
    chance = random.Random(1)
    # Last what does not hold the job up: it would be over before the next.
    faults = [fault for fault in FAULTS if fault != "API" and " and " not in fault] + ["API"]
    begun_at, job_id = time.time(), victim.submit(replicas=1)
    for fault in faults:
        victim.disturb(job_id, fault, chance, within=4)
    outcome = victim.judge(job_id, "all of them", begun_at)
    assert outcome.is_good, outcome


@pytest.mark.filterwarnings("ignore::drmad_client.errors.JobWarning")
def test_online_job_whose_processes_are_killed_trains_on_as_if_nothing_had_been(
    victim: Victim,
) -> None:
    chance = random.Random(2)
    begun_at, job_id = time.time(), victim.submit(replicas=1, online=True)
    for fault in ("replica", "scheduler"):
        victim.disturb(job_id, fault, chance, within=12)
    outcome = victim.judge(job_id, "replica and scheduler", begun_at, online=True)
    assert outcome.is_good, outcome


@pytest.mark.full
@pytest.mark.filterwarnings("ignore::drmad_client.errors.JobWarning")
@pytest.mark.parametrize(("mode", "rounds"), [("restart", 54), ("online", 20)])
def test_many_rounds_of_random_faults(tmp_path: Path, mode: str, rounds: int) -> None:
    log = Path(os.environ.get("DRMAD_FAULTS_LOG", tmp_path / "faults.jsonl"))
    log = log.with_stem(log.stem if mode == "restart" else f"{log.stem}-{mode}")
    log.touch()
    begun, online = len(log.read_text().splitlines()), mode == "online"
    with running(tmp_path / "home", iterations=40) as victim:
        for number in range(begun, rounds):
            fault, replicas = TURNS[number % len(TURNS)], 2 if number % 5 == 4 else 1
            job_id = victim.submit(replicas, online)
            chance = random.Random(f"round {number}")
            killed_at = victim.disturb(job_id, fault, chance, within=25 if online else 10)
            outcome = victim.judge(job_id, fault, killed_at, replicas, online)
            with log.open("a") as lines:
                lines.write(json.dumps(asdict(outcome)) + "\n")
    outcomes = [Outcome(**json.loads(line)) for line in log.read_text().splitlines()]
    log.with_suffix(".md").write_text(table(outcomes))
    assert [outcome for outcome in outcomes if not outcome.is_good] == []


def table(outcomes: Sequence[Outcome]) -> str:
    """The outcomes in Markdown, by what was killed."""
    lines = [
        "| killed with -9 | rounds | succeeded | contiguous | bit-identical | "
        "extra starts: mean, most | seconds without a commit: median, longest |",
        "|---|---|---|---|---|---|---|",
    ]
    for fault in [*FAULTS, "**all**"]:
        found = [outcome for outcome in outcomes if fault in (outcome.fault, "**all**")]
        if not found:
            continue
        starts = [outcome.extra_starts for outcome in found]
        seconds = [outcome.standstill_s for outcome in found]
        cells = [
            fault,
            len(found),
            sum(outcome.succeeded for outcome in found),
            sum(outcome.contiguous for outcome in found),
            sum(outcome.identical for outcome in found),
            f"{statistics.mean(starts):.1f}, {max(starts)}",
            f"{statistics.median(seconds):.1f}, {max(seconds):.1f}",
        ]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines) + "\n"
