from __future__ import annotations

import math

from drmad_client.records.job import JobRecord
from drmad_client.records.meta_iteration import MetaIteration
from drmad_client.records.status import JobStatus
from tests.client import samples


def test_figures_that_are_not_numbers_cross_the_wire() -> None:
    record = samples.record(0).model_copy(update={"validation_loss": math.nan})
    assert math.isnan(MetaIteration.model_validate_json(record.model_dump_json()).validation_loss)


def test_a_field_of_a_newer_service_is_ignored() -> None:
    job = samples.job()
    assert JobRecord.model_validate(job.model_dump() | {"mood": "good"}) == job


def test_three_states_are_terminal() -> None:
    ended = [status for status in JobStatus if status.is_terminal]
    assert ended == [JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELLED]
