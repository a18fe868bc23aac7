"""Exceptions cross to another process and back: pickle, copy, a pool."""

from __future__ import annotations

import copy
import importlib
import multiprocessing
import pickle
import pkgutil

import pytest

import drmad_client
from drmad_client.errors import (
    ApiError,
    DrmadError,
    JobFailed,
    UnprocessableEntity,
    ValidationFailed,
    from_problem,
)
from drmad_client.records.job import JobError
from drmad_client.records.problem_details import FieldError, ProblemDetails
from drmad_client.records.status import JobStatus
from tests.client import samples


def refusal(status: int) -> ApiError:
    errors = [FieldError(path="training.steps", message="must be at least 1, got 0")]
    problem = ProblemDetails(
        title="Refused", status=status, detail="1 field is invalid", code="x", errors=errors
    )
    return from_problem(problem, "req_1")


def failed() -> JobFailed:
    job = samples.job(JobStatus.FAILED)
    return JobFailed(job.model_copy(update={"error": JobError(code="x", message="y")}), ["a"])


def _raise(number: int) -> None:
    raise [refusal(422), failed()][number]


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 413, 415, 418, 422, 429, 500, 507])
def test_an_answer_of_the_service_survives_pickle(status: int) -> None:
    error = refusal(status)
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        back = pickle.loads(pickle.dumps(error, protocol))
        assert type(back) is type(error)
        assert (str(back), back.problem, back.request_id) == (str(error), error.problem, "req_1")
        assert (back.status, back.errors) == (status, error.errors)
    assert str(copy.deepcopy(error)) == str(copy.copy(error)) == str(error)


def test_a_failed_job_and_its_notes_survive_pickle() -> None:
    error = failed()
    error.add_note("seen on Monday")
    back = pickle.loads(pickle.dumps(error))
    assert (str(back), back.job, back.log_tail) == (str(error), error.job, ["a"])
    assert back.__notes__ == ["seen on Monday"]


def test_every_exception_of_the_packages_is_restored_whatever_it_takes() -> None:
    for package in (
        drmad_client,
        *map(importlib.import_module, ("drmad_workers", "drmad_service")),
    ):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if module.name.rpartition(".")[2] in (
                "errors",
                "code_archive",
                "job_file",
                "data_file",
            ):
                importlib.import_module(module.name)
    waiting, seen = [DrmadError], set()
    while waiting:
        kind = waiting.pop()
        seen.add(kind)
        waiting += [each for each in kind.__subclasses__() if each not in seen]
        error = kind.__new__(kind, "what was said")
        error.__dict__["job_id"] = "job_1"
        back = pickle.loads(pickle.dumps(error))
        assert type(back) is kind
        assert (str(back), back.__dict__) == (str(error), {"job_id": "job_1"})
    assert {ApiError, JobFailed, ValidationFailed, UnprocessableEntity} < seen


def test_a_pool_hands_exceptions_on() -> None:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        with pytest.raises(UnprocessableEntity, match=r"training\.steps") as refused:
            pool.apply(_raise, (0,))
        assert refused.value.errors[0].path == "training.steps"
        with pytest.raises(JobFailed, match="y") as lost:
            pool.apply(_raise, (1,))
        assert lost.value.job.id == samples.ID
