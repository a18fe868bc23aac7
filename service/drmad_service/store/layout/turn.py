"""The turn of a queued job: which jobs precede it, and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

SHORT_ID = 6
"""Characters of the end of an id that stand for it in a sentence."""

_BOUNDS = {
    "running_jobs": "tenant {tenant} runs as many jobs as it may at once ({number})",
    "gpus": "beside its running jobs, tenant {tenant} may not use so many GPUs at once ({number} "
    "in all)",
    "replicas": "beside its running jobs, tenant {tenant} may not run so many replicas at once "
    "({number} in all)",
}


@dataclass(frozen=True)
class Ahead:
    """The job whose turn comes directly before that of another one."""

    id: str
    tenant: str
    priority: int
    created_ms: float


@dataclass(frozen=True)
class Turn:
    """The turn of a queued job.

    Attributes:
        ahead: how many jobs precede it that could run.
        last: the last of these; None without one, and far down a long queue.
        bound: name and number of the bound of its tenant that keeps it back, if one does.
    """

    ahead: int = 0
    last: Ahead | None = None
    bound: tuple[str, str] | None = None

    @classmethod
    def of(cls, answer: Sequence[str | int]) -> Turn:
        """From an answer of lua/turns.lua."""
        ahead, job, tenant, priority, created_ms, bound, number = map(str, answer)
        last = Ahead(job, tenant, int(priority), float(created_ms)) if job else None
        return cls(int(ahead), last, (bound, number) if bound else None)

    def refusal(self, tenant: str) -> str:
        """Why its tenant's bounds keep the job back; empty where they do not."""
        if self.bound is None:
            return ""
        name, number = self.bound
        return _BOUNDS[name].format(tenant=tenant, number=number)

    def last_of(self, tenant: str) -> str | None:
        """The id of the job directly ahead, if it is one of this tenant."""
        return self.last.id if self.last is not None and self.last.tenant == tenant else None

    def behind(self, tenant: str, priority: int, created_ms: float) -> str:
        """Which job is ahead of that of these fields, and why; empty for the first job."""
        if not self.ahead:
            return ""
        count = f"queued behind {self.ahead} job{'' if self.ahead == 1 else 's'}"
        if self.last is None:
            return count
        own = self.last_of(tenant)
        name = own[-SHORT_ID:] if own else "one of another tenant"
        which = "" if self.ahead == 1 else "the last of them is "
        separator = ": " if self.ahead > 1 else ", "
        return f"{count}{separator}{which}{name}, which {self._why(priority, created_ms)}"

    def _why(self, priority: int, created_ms: float) -> str:
        assert self.last is not None
        is_older, more = self.last.created_ms <= created_ms, self.last.priority - priority
        if is_older and more < 0:
            return "has waited longer than this job's higher priority makes up for"
        if is_older and not more:
            return "was submitted earlier"
        if is_older:
            return f"was submitted earlier and has the higher priority ({self.last.priority})"
        if more > 0:
            return f"has the higher priority ({self.last.priority}, this job {priority})"
        return "comes first because its tenant runs fewer jobs"
