"""What the service refuses or cannot do; problems.py says how each is answered over HTTP."""

from __future__ import annotations

from drmad_client import __version__
from drmad_client.errors import DrmadError


class JobNotFound(DrmadError):
    def __init__(self, job_id: str) -> None:
        self.job_id = job_id
        super().__init__(f"there is no job {job_id}; GET /v1/jobs lists the jobs")


class ResultNotFound(DrmadError):
    """The job exists, but not (or not yet, or no longer) what was asked of it."""


class ActionRefused(DrmadError):
    """The job's state does not allow the action."""

    def __init__(self, job_id: str, action: str, status: str) -> None:
        self.job_id, self.action, self.status = job_id, action, status
        super().__init__(f"cannot {action} job {job_id}: it is {status}")


class IdempotencyConflict(DrmadError):
    def __init__(self, key: str) -> None:
        super().__init__(
            f"Idempotency-Key {key!r} was used for another body; use a new key for a new job"
        )


class NotSignedIn(DrmadError):
    def __init__(self, key_sent: bool = False) -> None:
        super().__init__(
            "this key is not known; look at DRMAD_API_KEY, or unset it to use this machine's own"
            if key_sent
            else "a key is needed: Authorization: Bearer KEY, as DRMAD_API_KEY sets it (that of "
            "`drmad up` is the file `key` in its home); a browser signs in at /sign-in"
        )


class SignInFailed(DrmadError):
    def __init__(self, by_ticket: bool) -> None:
        super().__init__(
            "this link was used before or is too old; get a new one with: drmad open"
            if by_ticket
            else "this key is not known; look for missing characters"
        )


class ScopeTooLow(DrmadError):
    def __init__(self, scope: str, needed: str) -> None:
        super().__init__(f"the key's scope must be at least {needed}, it is {scope}")


class KeyNotFound(DrmadError):
    def __init__(self, key_id: str) -> None:
        super().__init__(f"there is no key {key_id}; drmad keys list shows their ids")


class TooManyRequests(DrmadError):
    """The key asks faster than it may."""

    def __init__(self, requests_per_s: float, retry_after_s: float) -> None:
        self.retry_after_s = retry_after_s
        super().__init__(
            f"a key may ask {requests_per_s:g} times a second in the long run; ask again in "
            f"{retry_after_s:.3g} s"
        )


class TooManyQueued(DrmadError):
    """The tenant has as many jobs waiting as it may."""

    retry_after_s = 60.0

    def __init__(self, tenant: str, queued: int, most: int) -> None:
        super().__init__(
            f"tenant {tenant} has {queued} jobs queued or paused, at most {most} are allowed; wait "
            "until some have run, or cancel some"
        )


class TooManyStreams(DrmadError):
    """As many requests as may wait for changes do so already."""

    retry_after_s = 5.0

    def __init__(self, whose: str, most: int) -> None:
        super().__init__(
            f"{most} streams and waiting requests {whose} are open, and no more are allowed; close "
            "some, or look at GET /v1/jobs instead"
        )


class CrossSite(DrmadError):
    def __init__(self, origin: str | None) -> None:
        super().__init__(
            f"a page of {origin or 'an unknown origin'} may not change anything here; "
            "programs send Authorization: Bearer KEY"
        )


class StoreFull(DrmadError):
    """Too little of the memory budget is left to accept anything new."""

    def __init__(self, used_bytes: int, budget_bytes: int) -> None:
        self.used_bytes, self.budget_bytes = used_bytes, budget_bytes
        super().__init__(
            f"the store holds {used_bytes >> 20} of {budget_bytes >> 20} MiB and keeps the rest "
            "for the running jobs; delete jobs that have ended, or give Redis more memory"
        )


class SchemaDiffers(DrmadError):
    """Redis holds what another version of drmad wrote, or is being migrated to it."""

    def __init__(self, found: str, known: int) -> None:
        super().__init__(
            f"Redis is at schema {found}, this drmad {__version__} works with schema {known} and "
            "changes nothing; run the version that the other processes run"
        )


class LeaseLost(DrmadError):
    """Another scheduler drives the job now, or it is gone: its writer must stop."""


class ServiceStartError(DrmadError):
    """A part of the service could not be started; the message says why and what to do."""
