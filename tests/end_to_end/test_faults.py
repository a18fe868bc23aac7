"""kill -9 of every process, at random moments of a running job: nothing is lost or repeated.

`make test` disturbs one job by each fault in turn. `make test-full` runs a job for each of many;
where DRMAD_FAULTS_LOG names a file, rounds that stand in it are not run again, and the table of
docs/development/faults.md is written beside it.
"""

from __future__ import annotations

import json
import os
import random
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import pytest

from tests.end_to_end.victim import FAULTS, Outcome, running

ROUNDS = 54
TURNS = [*FAULTS, "replica", "Redis", "API"]


def test_job_whose_processes_are_killed_one_after_the_other_goes_on_as_if_nothing_had_been(
    tmp_path: Path,
) -> None:
    chance = random.Random(1)
    # Last what does not hold the job up: it would be over before the next.
    faults = [fault for fault in FAULTS if fault != "API" and " and " not in fault] + ["API"]
    with running(tmp_path / "home", iterations=100) as victim:
        begun_at, job_id = time.time(), victim.submit(replicas=1)
        for fault in faults:
            victim.disturb(job_id, fault, chance, within=4)
        outcome = victim.judge(job_id, "all of them", begun_at)
    assert outcome.is_good, outcome


@pytest.mark.full
def test_many_rounds_of_random_faults(tmp_path: Path) -> None:
    log = Path(os.environ.get("DRMAD_FAULTS_LOG", tmp_path / "faults.jsonl"))
    log.touch()
    begun = len(log.read_text().splitlines())
    with running(tmp_path / "home", iterations=40) as victim:
        for number in range(begun, ROUNDS):
            fault, replicas = TURNS[number % len(TURNS)], 2 if number % 5 == 4 else 1
            job_id = victim.submit(replicas)
            chance = random.Random(f"round {number}")
            killed_at = victim.disturb(job_id, fault, chance, within=10)
            outcome = victim.judge(job_id, fault, killed_at, replicas)
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
