"""Claims queued jobs, drives each in its own task and renews their leases."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time

from redis.exceptions import RedisError

from drmad_client.records.job import JobError
from drmad_service import logs, traces
from drmad_service.cancellation import cancel_and_wait
from drmad_service.errors import ActionRefused, JobNotFound, LeaseLost, SchemaDiffers, StoreFull
from drmad_service.ray_driver.connection import RayDriver, RayLost
from drmad_service.scheduling.autoscaler import keep_requesting_nodes
from drmad_service.scheduling.control_requests import ControlRequests
from drmad_service.scheduling.example_requests import answer_examples
from drmad_service.scheduling.job_driver.life_cycle import JobDriver
from drmad_service.scheduling.job_driver.outcomes import encodable
from drmad_service.scheduling.node_reports import keep_reporting_nodes
from drmad_service.scheduling.notifications.sending import keep_sending
from drmad_service.scheduling.preflight_requests import answer_preflights
from drmad_service.scheduling.ray_cluster import ComputeCluster, RayCluster
from drmad_service.scheduling.recipe_data_requests import answer_recipe_data
from drmad_service.scheduling.side_runs.queue import keep_running_beside
from drmad_service.settings import SchedulerSettings
from drmad_service.store import Capacity, Lease, Store
from drmad_service.store.access.refusals import explained, refusal_of
from drmad_service.store.files.data_folder import DataFolder
from drmad_service.store.layout.ids import new_id
from drmad_service.store.layout.state_machine import Action
from drmad_workers.artifacts.artifact import ArtifactError

logger = logging.getLogger(__name__)

_ARTIFACTS_SWEEP_S = 600.0


class Scheduler:
    """One of any number of schedulers; a lease decides which of them drives a job."""

    def __init__(
        self,
        store: Store,
        settings: SchedulerSettings,
        driver: RayDriver,
        cluster: ComputeCluster | None = None,
    ) -> None:
        """`cluster` is the Ray cluster of the driver by default."""
        self.name = new_id("scheduler")
        self._store = store
        self._settings = settings
        self._data = DataFolder(settings.data_dir, settings.artifact_location.open())
        self._artifacts_again_at = 0.0
        self._driven: dict[Lease, asyncio.Task[None]] = {}
        self._unrenewed = False
        self._cluster = cluster or RayCluster(settings, driver)
        self._driver = driver
        self._controls = ControlRequests(store, settings)

    async def run(self, stopping: asyncio.Event) -> None:
        """Schedule until `stopping` is set, then release every job.

        Raises:
            RayLost: Ray does not answer. Every job was released.
        """
        driver, served = self._driver, (self._store, self._settings)
        background = [
            asyncio.create_task(self._keep_leases()),
            asyncio.create_task(self._controls.listen()),
            asyncio.create_task(self._sweep()),
            asyncio.create_task(answer_preflights(*served, driver)),
            asyncio.create_task(answer_examples(*served, driver)),
            asyncio.create_task(answer_recipe_data(*served, driver)),
            asyncio.create_task(
                keep_reporting_nodes(self._store, self.name, self._settings.nodes_s, driver)
            ),
            asyncio.create_task(
                keep_requesting_nodes(*served, self._cluster, driver.request_nodes)
            ),
            asyncio.create_task(keep_running_beside(*served, self._cluster, driver)),
            asyncio.create_task(
                keep_sending(
                    self._store,
                    self._settings.webhooks,
                    self._settings.mail,
                    self._settings.public_url,
                )
            ),
        ]
        try:
            while not stopping.is_set():
                for task in background:
                    if task.done():  # a defect of drmad: without renewed leases no job may run
                        task.result()
                if not await self._claim_one():
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(stopping.wait(), self._settings.poll_s)
        finally:
            await cancel_and_wait([*self._driven.values()])
            await cancel_and_wait(background)

    async def _claim_one(self) -> bool:
        capacity = await self._cluster.capacity()
        began_ns = time.time_ns()
        try:
            if self._unrenewed:  # else this scheduler takes its own jobs, as those of a lost one
                await self._renew_leases()
            lease = await self._store.claim(self.name, self._settings.lease_s, capacity)
        except RedisError as error:
            logger.warning("claims no job: %s", explained(error))
            if refusal_of(error) is not None:  # the process is well, whatever refuses it
                self._beat()
            return False
        self._beat()
        if lease is None:
            return False
        traces.record("claim", began_ns, {"drmad.job_id": lease.job_id})
        logger.info("claimed a job", extra={"action": "job_claimed", "job_id": lease.job_id})
        task = asyncio.create_task(self._drive(lease, capacity))
        self._driven[lease] = task
        task.add_done_callback(lambda _: self._forget(lease))
        return True

    def _beat(self) -> None:
        if self._settings.heartbeat_file is not None:
            self._settings.heartbeat_file.touch()

    def _forget(self, lease: Lease) -> None:
        self._driven.pop(lease, None)
        if lease.job_id not in {driven.job_id for driven in self._driven}:  # not claimed again
            self._controls.forget(lease.job_id)

    async def _drive(self, lease: Lease, capacity: Capacity) -> None:
        fields = {"job_id": lease.job_id}
        logs.job_id.set(lease.job_id)  # in the context of this task
        try:
            await self._run(lease, capacity)
            logger.info("released a job", extra={"action": "job_released", **fields})
        except asyncio.CancelledError:
            await self._release(lease)
            raise
        except (LeaseLost, JobNotFound, SchemaDiffers) as error:
            logger.warning("stopped driving: %s", error, extra=fields)
        except RayLost as error:
            logger.warning("releases a job: %s", error, extra=fields)
            await self._release(lease)
        except Exception as error:
            logger.exception("could not drive a job", extra=fields)
            await self._fail(lease, error)

    async def _run(self, lease: Lease, capacity: Capacity) -> None:
        """Drive the job; begin again from its last commit whenever Redis was away."""
        pause_s = 0.1
        while True:
            try:
                driver = JobDriver(
                    self._store, lease, self._settings, capacity, self._controls, self._cluster
                )
                return await driver.run()
            except RedisError as error:
                refusal = refusal_of(error)
                if refusal is not None and not refusal.passes:
                    raise
                fields = {"job_id": lease.job_id}
                logger.warning("begins a job again: %s", explained(error), extra=fields)
            await asyncio.sleep(pause_s)
            pause_s = min(2.0 * pause_s, self._settings.store.redis_pause_s)

    async def _release(self, lease: Lease) -> None:
        with contextlib.suppress(RedisError, LeaseLost, ActionRefused, SchemaDiffers):
            message = "its scheduler was stopped; continues from the last meta-iteration"
            await self._store.act(lease, Action.YIELD, "scheduler_stopped", message)

    async def _fail(self, lease: Lease, error: Exception) -> None:
        message = encodable(f"the service failed: {type(error).__name__}: {error}")
        with contextlib.suppress(RedisError, LeaseLost, ActionRefused):
            cause = JobError(code="internal_error", message=message)
            await self._store.act(lease, Action.FAIL, "internal_error", message, cause)

    async def _keep_leases(self) -> None:
        while True:
            await asyncio.sleep(self._settings.lease_s / 3)
            try:
                await self._renew_leases()
            except RedisError as error:
                self._unrenewed = True
                logger.warning("could not renew the leases: %s", explained(error))

    async def _renew_leases(self) -> None:
        lost = await self._store.renew(self._driven, self._settings.lease_s)
        self._unrenewed = False
        for lease, task in list(self._driven.items()):
            if lease.job_id in lost:
                logger.warning("the lease was lost", extra={"job_id": lease.job_id})
                task.cancel()

    async def _sweep_artifacts(self) -> None:
        """Remove what no job names. A bucket is listed for that, so it is done less often."""
        if time.monotonic() < self._artifacts_again_at:
            return
        self._artifacts_again_at = time.monotonic() + _ARTIFACTS_SWEEP_S
        try:
            if removed := await self._store.remove_unnamed_artifacts():
                logger.info("removed %d artifacts that no job names", removed)
        except ArtifactError as error:
            logger.warning("removes no artifacts: %s", error)

    async def _sweep(self) -> None:
        """Delete jobs and uploads older than `keep_ended_s`; warn while the store is full."""
        while True:
            began = time.monotonic()
            with contextlib.suppress(RedisError, ArtifactError):
                kept_ms = self._settings.keep_ended_s * 1000
                if deleted := await self._store.delete_ended_before(kept_ms):
                    logger.info("deleted %d old jobs", deleted)
                if deleted := await self._store.delete_unused_code(kept_ms):
                    logger.info("deleted %d archives of code that no job names", deleted)
                for sha256 in await self._store.unused_data(kept_ms):
                    await asyncio.to_thread(self._data.remove, sha256)
                    logger.info("deleted data that no job names", extra={"sha256": sha256})
                await asyncio.to_thread(self._data.remove_abandoned)
                await self._sweep_artifacts()
                try:
                    await self._store.must_have_room()
                except StoreFull as error:
                    logger.warning("accepts no new jobs: %s", error)
            await asyncio.sleep(max(0.0, self._settings.sweep_s - (time.monotonic() - began)))
