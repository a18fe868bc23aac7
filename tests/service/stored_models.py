"""Models as the store returns them, read whole."""

from __future__ import annotations

from drmad_service.store import Store


async def model(store: Store, job_id: str, which: str) -> tuple[int, bytes]:
    """The iteration and the bytes of a job's best or last model."""
    iteration, file = await store.model(job_id, which)
    return iteration, await file.content()


async def retrained_model(store: Store, job_id: str, retraining_id: str) -> bytes:
    return await (await store.retrained_model(job_id, retraining_id)).content()
