"""The audit log: who did what, kept beside the jobs and longer than they."""

from __future__ import annotations

from drmad_client.records.pages import Page
from drmad_client.records.service.audit import AuditEntry
from drmad_service.store.base import Base
from drmad_service.store.layout import decoding, keys

_READ = 500


class Audit(Base):
    """Reads of the audit log. The scripts that change something write it."""

    async def audit(
        self,
        tenant: str | None = None,
        job_id: str | None = None,
        by: str | None = None,
        after: str | None = None,
        limit: int = 100,
    ) -> Page[AuditEntry]:
        """Entries, the newest first; of one tenant, one job and one principal, or of all.

        Args:
            after: the id of an entry; the page begins behind it.
        Raises:
            ValueError: `after` is no id of an entry.
        """
        last = "+"
        if after is not None:
            milliseconds, number = decoding.order(after)
            if not milliseconds and not number:  # Redis refuses an interval before its first id
                return Page(data=[], has_more=False, next=None)
            last = f"({milliseconds}-{number}"
        wanted = {b"tenant": tenant, b"job": job_id, b"by": by}
        found: list[AuditEntry] = []
        while len(found) <= limit:
            rows = await self._redis.xrevrange(keys.AUDIT, max=last, count=_READ)
            for entry_id, fields in rows:
                if all(
                    w is None or fields.get(name, b"").decode() == w for name, w in wanted.items()
                ):
                    found.append(decoding.audit_entry(entry_id, fields))
            if len(rows) < _READ:
                break
            last = f"({rows[-1][0].decode()}"
        page, has_more = found[:limit], len(found) > limit
        return Page(data=page, has_more=has_more, next=page[-1].id if has_more else None)
