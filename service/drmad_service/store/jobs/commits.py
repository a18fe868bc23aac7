"""Commits of meta-iterations: written completely or not at all."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from typing import Any

from drmad_client.records.hyperparameters import HyperparameterInfo
from drmad_client.records.status import JobStatus
from drmad_service.errors import LeaseLost
from drmad_service.store.access.large_values import iterations_to_drop
from drmad_service.store.base import described_model, model_chunks
from drmad_service.store.jobs.checkpoints import Checkpoints
from drmad_service.store.layout import keys
from drmad_service.store.layout.types import Lease, MetaIterationCommit, ResumePoint
from drmad_workers.artifacts.job_artifacts import Kept, kept_bytes


class Commits(Checkpoints):
    """States from which a job resumes, and the meta-iterations between them."""

    async def begin(
        self,
        lease: Lease,
        hyperparameters: Sequence[HyperparameterInfo],
        start: ResumePoint | None,
        adapted: Sequence[str] = (),
    ) -> None:
        """Keep the description of the hyperparameters, and the initial state of a new job.

        Args:
            adapted: what of the values it starts from was adapted, for the record.
        """
        infos = json.dumps([h.model_dump(mode="json") for h in hyperparameters])
        state = json.dumps(await self._put_state(lease, start)) if start else ""
        fields = {"hyperparameters": infos}
        if adapted:
            fields["adapted"] = json.dumps(list(adapted))
        await self._update(lease, fields, state=state)

    async def resume_point(self, job_id: str) -> ResumePoint | None:
        """The state from which the job resumes; None when it has not begun."""
        raw = await self._redis.get(keys.job(job_id, "state"))
        if raw is None:
            return None
        state = json.loads(raw)
        tensors = await self._blobs.kept(job_id, state["chunks"])
        return ResumePoint(state["iteration"], tensors, state["scalars"])

    async def kept_point(self, job_id: str, iteration: int) -> tuple[ResumePoint, Kept]:
        """State and hypergradient of a committed meta-iteration."""
        kept = await self._kept(job_id, iteration)
        state = await self._blobs.kept(job_id, kept["state"])
        hypergradient = await self._blobs.kept(job_id, kept["hypergradient"])
        return ResumePoint(iteration, state, kept["scalars"]), hypergradient

    async def roll_back(self, lease: Lease, point: ResumePoint, message: str) -> JobStatus:
        """Begin the same meta-iteration again, from another state. Returns the job's status."""
        before = await self._state(lease.job_id)
        state = await self._put_state(lease, point)
        kept = (await self._all_vectors(lease.job_id)).values()
        garbage = set(before["chunks"]) - _referenced([*kept], state)
        rollback = {"iteration": point.iteration, "rollback": point.scalars["rollbacks"]}
        event = json.dumps(rollback | {"message": message})
        status = await self._update(
            lease, {}, "rollback", event, json.dumps(state), sorted(garbage)
        )
        await self._blobs.drop(lease.job_id, garbage)
        return status

    async def commit(self, lease: Lease, step: MetaIterationCommit) -> JobStatus:
        """Commit one meta-iteration. Committing it again under the same lease changes nothing.

        Returns the job's status, which shows an open control request.

        Raises:
            LeaseLost: another scheduler drives the job.
        """
        job_id = lease.job_id
        before, held, hypergradient, state, models, checkpoint = await asyncio.gather(
            self._state(job_id),
            self._redis.hget(keys.job(job_id), "vector_bytes"),
            self._blobs.put(job_id, lease.fence, step.hypergradient),
            self._put_state(lease, step.next_state),
            self._put_model(lease, step),
            self._put_checkpoint(lease, step.training),
        )
        vectors = {
            "state": before["chunks"],
            "scalars": before["scalars"],
            "hypergradient": hypergradient,
            "state_bytes": before["bytes"],
            "bytes": before["bytes"] + kept_bytes(step.hypergradient),
        }
        total = int(held or 0) + vectors["bytes"]
        gone, garbage, vector_bytes = await self._fit_budget(job_id, step, vectors, state, total)
        fields = {
            "progress": step.progress.model_dump_json(),
            "vector_bytes": str(vector_bytes),
        }
        if step.best is not None:
            fields["best"] = step.best.model_dump_json()
        new_models, old_models = models
        outcome, detail = await self._scripts.run(
            "commit",
            job_id,
            lease.fence,
            step.iteration,
            json.dumps(step.record, allow_nan=False),
            json.dumps(state),
            json.dumps(vectors),
            json.dumps(new_models),
            json.dumps(fields),
            json.dumps(gone),
            json.dumps(garbage),
            json.dumps(old_models),
            json.dumps(dict(checkpoint.kept)),
            json.dumps([*checkpoint.dropped]),
            json.dumps([*checkpoint.garbage]),
        )
        if outcome != "ok":
            raise LeaseLost(
                f"meta-iteration {step.iteration} of {job_id} refused: {outcome} {detail}"
            )
        # Awaited: the next meta-iteration may write the same artifact again.
        await asyncio.gather(
            self._blobs.drop(job_id, garbage),
            self._model_blobs.drop(job_id, old_models),
            self._checkpoint_blobs.drop(job_id, checkpoint.garbage),
        )
        return JobStatus(detail)

    async def _put_state(self, lease: Lease, point: ResumePoint) -> dict[str, Any]:
        return {
            "iteration": point.iteration,
            "scalars": point.scalars,
            "chunks": await self._blobs.put(lease.job_id, lease.fence, point.tensors),
            "bytes": kept_bytes(point.tensors),
        }

    async def _put_model(
        self, lease: Lease, step: MetaIterationCommit
    ) -> tuple[dict[str, str], list[str]]:
        """New entries of the models hash, and the chunks that become unreferenced by them."""
        if step.model is None:
            return {}, []
        kept, chunks = await asyncio.gather(
            self._models(lease.job_id),
            self._model_blobs.put(lease.job_id, lease.fence, step.model),
        )
        described = described_model(step.iteration, step.model, chunks)
        changed = {"last": described} | ({"best": described} if step.best else {})
        entries = {name: json.dumps(value) for name, value in changed.items()}
        return entries, sorted(model_chunks(kept) - model_chunks(kept | changed))

    async def _fit_budget(
        self,
        job_id: str,
        step: MetaIterationCommit,
        vectors: dict[str, Any],
        state: Mapping[str, Any],
        total: int,
    ) -> tuple[list[int], list[str], int]:
        """Iterations whose vectors are dropped to fit the budget, their chunks, the bytes left."""
        if total <= self._settings.vector_bytes:
            return [], [], total
        kept = await self._all_vectors(job_id) | {step.iteration: vectors}
        sizes = {number: value["bytes"] for number, value in kept.items()}
        best = step.best or (await self.get(job_id)).best
        protected = {best.iteration} if best else set()
        if (replayed := await self._replayed(job_id)) is not None:
            protected |= {number for number in kept if number >= replayed}
        # A tenth below the budget, so that not every commit has to read all vectors.
        gone = iterations_to_drop(sizes, self._settings.vector_bytes * 9 // 10, protected)
        left = {number: value for number, value in kept.items() if number not in gone}
        dropped = {c for n in gone for c in (*kept[n]["state"], *kept[n]["hypergradient"])}
        garbage = dropped - _referenced([*left.values()], state)
        return gone, sorted(garbage), sum(sizes[number] for number in left)


def _referenced(vectors: Sequence[Mapping[str, Any]], state: Mapping[str, Any]) -> set[str]:
    """Chunks that these entries name. Equal parts of different vectors share a chunk."""
    named = {c for v in vectors for c in (*v["state"], *v["hypergradient"])}
    return named | set(state["chunks"])
