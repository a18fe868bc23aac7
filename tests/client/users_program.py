"""A user's program for type checkers alone: the declared types must be the actual ones."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, assert_type

import numpy as np
from numpy.typing import NDArray

import drmad_client as drmad
from drmad_client.errors import JobFailed, UnprocessableEntity
from drmad_client.packing.packed_problem import PackedProblem
from drmad_client.plots import figures
from drmad_client.records.events import Event
from drmad_client.records.job import Best, PreflightReport
from drmad_client.records.meta_iteration import MetaIteration
from drmad_client.records.status import JobStatus

SPEC = drmad.JobSpec.model_validate({"problem": {"data": {"name": "digits"}}})


def build(width: int = 8) -> object:
    return width


def submit() -> None:
    with drmad.Client() as client:
        job = client.jobs.create(SPEC, problem=build)
        assert_type(job.packed, PackedProblem | None)
        packed = drmad.pack(build)
        assert_type(packed, PackedProblem)
        assert_type(client.jobs.check(SPEC, problem=packed), PreflightReport)


def tune() -> NDArray[Any]:
    with drmad.Client("http://127.0.0.1:8080", timeout_s=10) as client:
        try:
            job = client.jobs.create(SPEC)
            assert_type(job, drmad.Job)
            assert_type(job.wait(timeout_s=60, progress=False).best, Best | None)
        except UnprocessableEntity as error:
            print([field.path for field in error.errors])
            raise
        except JobFailed as error:
            print(error.job.error, error.log_tail)
            raise
        for event in job.stream():
            assert_type(event, Event)
        for other in client.jobs.list(status=JobStatus.RUNNING):
            assert_type(other, drmad.Job)
        history = job.history()
        assert_type(history[0], MetaIteration)
        figures.to_plotly(figures.losses(history))
        assert_type(job.save("tuned"), list[Path])
        forked = job.fork(changes={"meta": {"learning_rate": 0.1}})
        assert_type(forked.pause().resume().cancel(), drmad.Job)
        weights = job.hyperparameters()["sample_weight"]
        assert_type(weights, NDArray[Any])
        return np.sort(weights)


async def tune_many(seeds: list[int]) -> list[float]:
    async with drmad.AsyncClient() as client:
        jobs = [await client.jobs.create(SPEC.model_copy(update={"seed": s})) for s in seeds]
        done = await asyncio.gather(*(job.wait(progress=False) for job in jobs))
        assert_type(done[0], drmad.AsyncJob)
        async for event in done[0].stream():
            assert_type(event, Event)
        async for job in await client.jobs.list(tag="team:vision"):
            assert_type(job, drmad.AsyncJob)
        return [job.best.validation_loss for job in done if job.best]
