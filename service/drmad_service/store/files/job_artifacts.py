"""The artifacts of jobs: which of them Redis names, and the removal of the others."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Iterable, Mapping
from typing import Any

from drmad_service.store.base import Base
from drmad_service.store.layout import keys
from drmad_workers.artifacts.artifact import Artifact, ArtifactError
from drmad_workers.artifacts.store import INCOMING, job_folder

logger = logging.getLogger(__name__)

GRACE_S = 3600.0
"""Age from which an artifact that nothing names is removed, in seconds. A worker writes an artifact
before the commit names it, and a fork has its copies before it is created."""
_NAME = re.compile(r"artifact:[0-9a-f]{64}:\d{1,19}")
_PARTS = ("state", "vectors", "models", "checkpoints", "retrainings")
_PAGE = 500


class ArtifactsOfJobs(Base):
    """Reads the references, and removes what has none."""

    async def artifacts_of(self, job_ids: Iterable[str]) -> dict[str, set[Artifact]]:
        """The artifacts that Redis names, of each of these jobs that exists."""
        found: dict[str, set[Artifact]] = {}
        ids = list(job_ids)
        for start in range(0, len(ids), _PAGE):
            page = ids[start : start + _PAGE]
            pipe = self._redis.pipeline(transaction=False)
            for job_id in page:
                pipe.exists(keys.job(job_id))
                pipe.hmget(keys.job(job_id), "attribution", "warm")
                pipe.get(keys.job(job_id, "state"))
                for part in _PARTS[1:]:
                    pipe.hvals(keys.job(job_id, part))
            answers = await pipe.execute()
            size = 2 + len(_PARTS)
            for place, job_id in enumerate(page):
                exists, *values = answers[place * size : (place + 1) * size]
                if exists:
                    found[job_id] = _artifacts_in_values(values)
        return found

    async def remove_unnamed_artifacts(self, grace_s: float = GRACE_S) -> int:
        """Remove old artifacts that nothing names, and drafts of old. Returns how many.

        Raises:
            ArtifactError: the store fails.
        """
        if self._artifacts is None:
            return 0
        before = time.time() - grace_s
        # Listed before the references are read: what is named later is younger than the grace.
        entries = await asyncio.to_thread(self._artifacts.entries, "jobs")
        old = [entry.key for entry in entries if entry.modified < before]
        named = await self.artifacts_of({key.split("/")[1] for key in old})
        kept = {
            f"{job_id}/{artifact.sha256}" for job_id, theirs in named.items() for artifact in theirs
        }
        gone = [
            key
            for key in old
            if key.startswith(f"{INCOMING}/") or "/".join(key.split("/")[1::2]) not in kept
        ]
        await asyncio.to_thread(self._artifacts.remove, gone)
        return len(gone)

    async def _remove_artifacts(self, job_id: str) -> None:
        """Remove those of a deleted job; what fails is left to the next sweep."""
        if self._artifacts is None:
            return
        try:
            await asyncio.to_thread(self._artifacts.remove_below, job_folder(job_id))
        except ArtifactError as error:
            logger.warning("leaves artifacts: %s", error, extra={"job_id": job_id})


def bytes_of(named: Mapping[str, set[Artifact]]) -> int:
    """The bytes of the artifacts of all jobs."""
    return sum(artifact.size for theirs in named.values() for artifact in theirs)


def artifacts_in(text: str) -> set[Artifact]:
    """The artifacts that a text names."""
    return {found for name in _NAME.findall(text) if (found := Artifact.named(name)) is not None}


def _artifacts_in_values(values: Iterable[Any]) -> set[Artifact]:
    texts = [
        text for value in values for text in (value if isinstance(value, list) else [value]) if text
    ]
    return set().union(*(artifacts_in(text.decode()) for text in texts))
