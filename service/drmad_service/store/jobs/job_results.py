"""Results of a job: its history, vectors, models and the fidelity of its method."""

from __future__ import annotations

import json
from typing import Any

from drmad_client.records.meta_iteration import MetaIteration
from drmad_client.records.pages import Page
from drmad_service.errors import ResultNotFound
from drmad_service.store.base import Base
from drmad_service.store.files.stored_file import StoredFile
from drmad_service.store.files.tensor_file import StoredTensor, tensors_of
from drmad_service.store.layout import decoding, keys

_HAS_CHOICE = b'"choice": {'
"""Occurs in the JSON of a MetaIteration exactly when `auto` probed in it."""


class JobResults(Base):
    """Reads the results of jobs."""

    async def history(
        self, job_id: str, after: int | None = None, limit: int = 100, every: int = 1
    ) -> Page[MetaIteration]:
        """MetaIteration records after iteration `after`: those divisible by `every`, in order."""
        await self._must_exist(job_id)
        found: list[tuple[int, bytes]] = []
        start = f"{after + 1}-0" if after is not None else "-"
        while len(found) <= limit:
            entries = await self._redis.xrange(
                keys.job(job_id, "history"), min=start, count=(limit + 1) * min(every, 100)
            )
            if not entries:
                break
            numbered = [(decoding.order(entry)[0], fields[b"record"]) for entry, fields in entries]
            found += [(number, record) for number, record in numbered if number % every == 0]
            start = f"({entries[-1][0].decode()}"
        page = found[:limit]
        has_more = len(found) > limit
        kept = (
            await self._redis.hmget(keys.job(job_id, "vectors"), [number for number, _ in page])
            if page
            else []
        )
        records = [
            decoding.iteration(record, has_vectors=vectors is not None)
            for (_, record), vectors in zip(page, kept, strict=True)
        ]
        return Page(data=records, has_more=has_more, next=str(page[-1][0]) if has_more else None)

    async def iteration(self, job_id: str, which: str | int) -> MetaIteration:
        """The record of a meta-iteration, given by its number, "best" or "last".

        Raises:
            ResultNotFound: the meta-iteration is not committed.
        """
        job = await self.get(job_id)
        if which == "best" and job.best is not None:
            which = job.best.iteration
        elif which == "last":
            newest = await self._redis.xrevrange(keys.job(job_id, "history"), count=1)
            which = decoding.order(newest[0][0])[0] if newest else which
        if isinstance(which, int):
            found = await self.history(job_id, after=which - 1 if which else None, limit=1)
            if found.data and found.data[0].iteration == which:
                return found.data[0]
        named = f"of index {which}" if isinstance(which, int) else f"called {which}"
        raise ResultNotFound(
            f"job {job_id} has no meta-iteration {named}: {job.progress.iteration} of "
            f"{job.progress.iterations} are committed and it is {job.status}"
        )

    async def vectors(self, job_id: str, iteration: int, what: str) -> bytes:
        """The "state" or the "hypergradient" of a committed meta-iteration, as safetensors."""
        return await self._blobs.get(job_id, (await self._kept(job_id, iteration))[what])

    async def hyperparameter_tensors(
        self, job_id: str, iteration: int, what: str
    ) -> dict[str, StoredTensor]:
        """The tensor of each hyperparameter in the "state" or the "hypergradient", by its name.

        Raises:
            ResultNotFound: they are not kept.
        """
        names = (await self._kept(job_id, iteration))[what]
        found = await tensors_of(await StoredFile.of(self._blobs, job_id, names))
        prefix = "hyperparameters/"
        return {
            name.removeprefix(prefix): tensor
            for name, tensor in found.items()
            if name.startswith(prefix)
        }

    async def fidelity_report(self, job_id: str) -> dict[str, Any] | None:
        """The fidelity measured before the first meta-iteration; None when it was not measured."""
        await self._must_exist(job_id)
        report = await self._redis.hget(keys.job(job_id), "fidelity")
        return json.loads(report) if report else None

    async def fidelity(self, job_id: str) -> dict[str, Any]:
        """The fidelity report, and every choice of `auto` in the history."""
        report = await self.fidelity_report(job_id)
        choices: list[dict[str, Any]] = []
        start = "-"
        while entries := await self._redis.xrange(
            keys.job(job_id, "history"), min=start, count=1000
        ):
            start = f"({entries[-1][0].decode()}"
            for entry, fields in entries:
                if _HAS_CHOICE in fields[b"record"]:  # few of thousands of records hold a choice
                    choice = json.loads(fields[b"record"])["choice"]
                    choices.append({"iteration": decoding.order(entry)[0], **choice})
        return {"report": report, "choices": choices}

    async def model(self, job_id: str, which: str) -> tuple[int, StoredFile]:
        """Iteration and safetensors of the "best" or "last" model."""
        await self._must_exist(job_id)
        kept = await self._redis.hget(keys.job(job_id, "models"), which)
        if kept is None:
            job = await self.get(job_id)
            why = "no meta-iteration is committed yet"
            if job.progress.iteration:
                why = "it is larger than max_model_bytes of the service"
            if job.preflight is not None and job.preflight.model_refusal:
                why = job.preflight.model_refusal
            raise ResultNotFound(f"job {job_id} keeps no {which} model: {why}")
        described = json.loads(kept)
        stated = described.get("bytes"), described.get("sha256")
        file = await StoredFile.of(self._model_blobs, job_id, described["chunks"], *stated)
        return described["iteration"], file
