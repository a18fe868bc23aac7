"""Runs beside jobs: what a lost scheduler had finished is not done again."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from drmad_client.spec.job import JobSpec
from drmad_client.spec.side_runs.retraining import RetrainingSpec
from drmad_service.scheduling.side_runs.driver import SideRunDriver
from drmad_service.settings import SchedulerSettings
from drmad_service.store import Store
from drmad_service.store.side_runs.base import HeldRun
from tests.service.store.test_retrainings import REPORT
from tests.service.store.test_validations import FOUR, ended_job, taken

pytestmark = pytest.mark.anyio

RUNS = 4


class Numbers(SideRunDriver):
    """A run whose workers are strings, and whose training runs end when `ends` says so."""

    def __init__(self, store: Store, held: HeldRun, ends: set[int]) -> None:
        settings = SchedulerSettings("redis:", poll_s=0.01, lease_s=0.5)
        driver: Any = None  # its workers are no actors
        super().__init__(store, settings, held, driver)
        self.begun: list[int] = []
        self.finished = asyncio.Event()
        self._ends = ends

    async def _start(self) -> None:
        self._total, self._workers = RUNS, ["one", "other"]

    async def _computed(self) -> Mapping[str, Any]:
        await self._run_all(self._begin)
        self._workers = []
        return {"report": REPORT.model_dump(mode="json")}

    def _begin(self, worker: Any, number: int) -> asyncio.Future[Any]:
        self.begun.append(number)
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        if number in self._ends:
            future.set_result({"test_error": number / 3.0})
        return future

    async def _report_progress(self) -> None:
        await super()._report_progress()
        if self._reported == len(self._ends):
            self.finished.set()


async def test_finished_training_runs_of_a_lost_scheduler_are_kept(
    store: Store, spec: JobSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = await ended_job(store, spec)
    found = await store.request_retraining(job_id, 0, RetrainingSpec(seeds=2))
    lost = Numbers(store, await taken(store), ends={0, 1})
    task = asyncio.create_task(lost.run())
    async with asyncio.timeout(60):
        await lost.finished.wait()
    # As a process that is killed, it neither releases the run nor reports again.
    monkeypatch.setattr(lost, "_store", None)
    lost._workers = []
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    async with asyncio.timeout(60):
        while (held := await store.next_run(60.0, FOUR, 16)) is None:
            await asyncio.sleep(0.01)
    assert held.id == found.id
    following = Numbers(store, held, ends={2, 3})
    async with asyncio.timeout(60):
        await following.run()
    assert sorted(following.begun) == [2, 3]
    assert {n: v["test_error"] for n, v in following._done.items()} == {
        n: n / 3.0 for n in range(RUNS)
    }
    assert (await store.retraining(job_id, found.id)).status == "succeeded"
    assert await store.finished_parts(held) == {}
