"""The labels of a job: changes of its name, tags and note, and its archiving."""

from __future__ import annotations

import json

from drmad_client.records.job import JobRecord
from drmad_client.spec.labels import MOST_TAGS, LabelsSpec
from drmad_service.errors import ActionRefused, JobNotFound, TooManyTags
from drmad_service.store.base import Base

_EXCERPT = 200
"""Characters of a note that the audit log quotes."""


class Labels(Base):
    """Changes labels. They lie beside the spec, whose other fields never change with them."""

    async def label(self, job_id: str, labels: LabelsSpec, by: str) -> JobRecord:
        """Change the labels of a job; what changes nothing is not recorded in the audit log.

        Raises:
            ActionRefused: a job that has not ended cannot be archived.
            TooManyTags: it would have more than MOST_TAGS tags.
        """
        spec = (await self.get(job_id)).spec
        changes = labels.changes
        if "note" in changes:
            changes["note"] = changes["note"] or ""
            changes["excerpt"] = changes["note"][:_EXCERPT]
        if "tags" in changes and changes["tags"] is None:
            changes |= {"tags": {}, "no_tags": True}
        outcome, found = await self._scripts.run(
            "label",
            job_id,
            by,
            json.dumps(changes),
            json.dumps({"name": spec.name, "tags": spec.tags}),
            MOST_TAGS,
        )
        if outcome == "unknown":
            raise JobNotFound(job_id)
        if outcome == "refused":
            advice = ", and only a job that has ended can be archived"
            raise ActionRefused(job_id, "archive", found, advice)
        if outcome == "too_many":
            raise TooManyTags(int(found), MOST_TAGS)
        return await self.get(job_id)
