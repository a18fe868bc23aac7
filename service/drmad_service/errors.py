"""Errors of the service; api/problem_details.py maps each to an HTTP status."""

from __future__ import annotations

import errno
from http import HTTPStatus

from drmad_client import __version__
from drmad_client.errors import DrmadError


class JobNotFound(DrmadError):
    def __init__(self, job_id: str) -> None:
        self.job_id = job_id
        super().__init__(f"there is no job {job_id}; GET /v1/jobs lists the jobs")


class GroupNotFound(DrmadError):
    def __init__(self, name: str) -> None:
        super().__init__(f"there is no job with the tag group:{name}; GET /v1/jobs lists the jobs")


class NotInstalled(DrmadError):
    """The request needs a package that the API runs without."""


class ResultNotFound(DrmadError):
    """The job exists, but the requested result does not exist, not yet or no longer."""


class ActionRefused(DrmadError):
    """The job's state does not allow the action."""

    def __init__(self, job_id: str, action: str, status: str, advice: str = "") -> None:
        self.job_id, self.action, self.status = job_id, action, status
        super().__init__(f"cannot {action} job {job_id}: it is {status}{advice}")


class RunRefused(DrmadError):
    """Another run of the kind beside the job, or its own state, does not allow the request."""


class ValidationRefused(RunRefused):
    """The request for a validation, or to cancel it, is not allowed now."""


class RetrainingRefused(RunRefused):
    """The request for a retraining, or to cancel it, is not allowed now."""


class RunLost(DrmadError):
    """Another scheduler has taken the run beside a job, or its job was deleted."""


class TooManyTags(DrmadError):
    def __init__(self, count: int, most: int) -> None:
        super().__init__(
            f"a job has at most {most} tags, and this one would have {count}; remove tags with "
            'null as their value: {"tags": {"old": null}}'
        )


class IdempotencyConflict(DrmadError):
    def __init__(self, key: str) -> None:
        super().__init__(
            f"Idempotency-Key {key!r} was used with another body; use a new key for a new job"
        )


class NotJson(DrmadError):
    """The request states another content type than its route reads."""

    def __init__(self, stated: str) -> None:
        super().__init__(
            f"the body must be JSON with the header Content-Type: application/json, got "
            f"{stated or 'no Content-Type'}; with curl: -H 'Content-Type: application/json', which "
            "-d alone does not send"
        )


class NotSignedIn(DrmadError):
    def __init__(self, key_sent: bool = False) -> None:
        super().__init__(
            "this key is unknown; correct DRMAD_API_KEY, or unset it to use the key of this "
            "machine's `drmad up`"
            if key_sent
            else "the request needs a key: send Authorization: Bearer KEY, or set DRMAD_API_KEY "
            "(the file `key` in the home of `drmad up` holds one); a browser signs in at /sign-in"
        )


class SignInFailed(DrmadError):
    def __init__(self, by_ticket: bool) -> None:
        super().__init__(
            "this link was used before or has expired; get a new one with: drmad open"
            if by_ticket
            else "this key is unknown; check that it is complete"
        )


class ScopeTooLow(DrmadError):
    def __init__(self, scope: str, needed: str) -> None:
        super().__init__(f"the key's scope must be at least {needed}, got {scope}")


class NotOwner(DrmadError):
    """The job was made by another key, and the caller's key has no scope to change it."""

    def __init__(self, job_id: str, owner: str) -> None:
        super().__init__(
            f"job {job_id} was made by key {owner}; a key changes the jobs of others of its tenant "
            "only with the scope manage (drmad keys create --scope manage)"
        )


class KeyNotFound(DrmadError):
    def __init__(self, key_id: str) -> None:
        super().__init__(f"there is no key {key_id}; `drmad keys list` shows the ids of all keys")


class TooManyRequests(DrmadError):
    """The key exceeds its request rate."""

    def __init__(self, requests_per_s: float, retry_after_s: float) -> None:
        self.retry_after_s = retry_after_s
        super().__init__(
            f"a key may send {requests_per_s:g} requests per second in the long run; retry in "
            f"{retry_after_s:.3g} s"
        )


class TooManyQueued(DrmadError):
    """The tenant has reached its limit of queued and paused jobs."""

    retry_after_s = 60.0

    def __init__(self, tenant: str, queued: int, most: int) -> None:
        super().__init__(
            f"tenant {tenant} has {queued} queued or paused jobs, and at most {most} are allowed; "
            "wait until some have ended, or cancel some"
        )


class TooManyWaiting(DrmadError):
    """The tenant has as many preflights or shown examples waiting for a worker as it may."""

    retry_after_s = 10.0

    def __init__(self, tenant: str, waiting: int, most: int) -> None:
        super().__init__(
            f"{waiting} requests of tenant {tenant} wait for a worker already, and at most {most} "
            "may; wait until some of them are answered"
        )


class TenantFull(DrmadError):
    """The tenant stores as much as it may."""

    def __init__(self, tenant: str, used_bytes: int, most_bytes: int) -> None:
        super().__init__(
            f"tenant {tenant} stores about {used_bytes:,} bytes, and at most {most_bytes:,} are "
            "allowed; delete jobs that have ended"
        )


class TooManyUploads(DrmadError):
    """The tenant has as many uploads under way as it may."""

    retry_after_s = 5.0

    def __init__(self, tenant: str, most: int) -> None:
        super().__init__(
            f"tenant {tenant} may have {most} uploads under way at once; "
            + ("ask the operator of the service" if not most else "wait until one of them ends")
        )


class TooManyStreams(DrmadError):
    """The limit of open event streams and waiting requests is reached."""

    retry_after_s = 5.0

    def __init__(self, whose: str, most: int) -> None:
        super().__init__(
            f"{most} streams and waiting requests {whose} are open, and no more are allowed; close "
            "some, or poll GET /v1/jobs instead"
        )


class CrossSite(DrmadError):
    def __init__(self, origin: str | None) -> None:
        super().__init__(
            f"a page of {origin or 'an unknown origin'} may not change anything in this service; "
            "a program must send Authorization: Bearer KEY"
        )


class StoreFull(DrmadError):
    """Redis uses so much of its memory limit that the service accepts nothing new."""

    def __init__(self, used_bytes: int, budget_bytes: int) -> None:
        self.used_bytes, self.budget_bytes = used_bytes, budget_bytes
        super().__init__(
            f"Redis uses {used_bytes >> 20} of {budget_bytes >> 20} MiB, and the rest is reserved "
            "for running jobs; delete jobs that have ended, or raise Redis's memory limit"
        )


class DiskRefuses(DrmadError):
    """The disk takes no upload: it is full, or denies the right."""

    def __init__(self, error: OSError) -> None:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        self.status = HTTPStatus.INSUFFICIENT_STORAGE if full else HTTPStatus.SERVICE_UNAVAILABLE
        self.code = "disk_full" if full else "disk_refuses"
        remedy = "free space there" if full else "give the service the right to write there"
        super().__init__(
            f"the disk of the service takes no upload ({error.strerror}): the operator must "
            f"{remedy}"
        )


class ArtifactsFail(DrmadError):
    """The artifact store does not answer, or refuses a request."""

    retry_after_s = 5.0


class SchemaDiffers(DrmadError):
    """The data in Redis have another schema, or are being migrated to one."""

    def __init__(self, found: str, known: int) -> None:
        super().__init__(
            f"Redis is at schema {found}, this drmad {__version__} uses schema {known} and changes "
            "nothing; run the same version in every process"
        )


class LeaseLost(DrmadError):
    """Another scheduler holds the job's lease, or the job is deleted: the writer must stop."""


class ServiceStartError(DrmadError):
    """A process of the service cannot start; the message gives the reason and the remedy."""
