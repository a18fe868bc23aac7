"""Refusals of Redis, told apart from its absence.

An outage ends by itself, and whoever waits for its end need not say more. A refusal has a cause
that somebody must remove: these functions say which.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from http import HTTPStatus

from redis import exceptions


@dataclass(frozen=True)
class Refusal:
    """Why Redis does not execute a request.

    Attributes:
        code: for programs, as in problem+json.
        cause: a clause, with what Redis said.
        remedy: what to do.
        passes: whether the same request succeeds once the cause is removed.
        status: the HTTP status of a request that meets it.
    """

    code: str
    cause: str
    remedy: str
    passes: bool
    status: HTTPStatus

    def __str__(self) -> str:
        return f"{self.cause}; {self.remedy}"


@dataclass(frozen=True)
class _Kind:
    pattern: str
    errors: tuple[type[exceptions.RedisError], ...]
    code: str
    cause: str
    remedy: str
    status: HTTPStatus = HTTPStatus.SERVICE_UNAVAILABLE


_KINDS = (
    _Kind(
        r"\bOOM\b",
        (exceptions.OutOfMemoryError,),
        "store_full",
        "Redis has reached its memory limit",
        "delete jobs that have ended, or raise Redis's memory limit",
        HTTPStatus.INSUFFICIENT_STORAGE,
    ),
    _Kind(
        r"\bMISCONF\b",
        (),
        "store_disk",
        "Redis cannot write to its disk and refuses all changes",
        "free space on the disk of Redis, or repair it",
        HTTPStatus.INSUFFICIENT_STORAGE,
    ),
    _Kind(
        r"\bREADONLY\b|read.?only replica",
        (exceptions.ReadOnlyError,),
        "store_read_only",
        "Redis is a read-only replica",
        "point DRMAD_REDIS_URL to the primary, or promote this replica",
    ),
    _Kind(
        r"\b(NOPERM|NOAUTH|WRONGPASS)\b|ACL failure|can't run this command|can't access"
        r"|EXEC without MULTI"  # which was refused
        r"|invalid (username-)?password|Authentication required",
        (
            exceptions.NoPermissionError,
            exceptions.AuthenticationError,
            exceptions.AuthorizationError,
        ),
        "store_forbidden",
        "Redis does not give this process the rights that it needs",
        "correct the user and password in DRMAD_REDIS_URL, or the rights of the user (ACL SETUSER)",
    ),
    _Kind(
        r"\bNOREPLICAS\b",
        (),
        "store_without_replicas",
        "Redis has fewer replicas than its min-replicas-to-write and refuses all changes",
        "start the replicas of Redis",
    ),
)

_OUTAGES = (
    exceptions.ConnectionError,
    exceptions.TimeoutError,
    exceptions.BusyLoadingError,
    exceptions.ClusterError,
    exceptions.TryAgainError,
)
_OUTAGE = re.compile(r"\b(LOADING|BUSY|UNKILLABLE|CLUSTERDOWN|MASTERDOWN|TRYAGAIN|NOGOODSLAVE)\b")


def refusal_of(error: Exception) -> Refusal | None:
    """Why Redis, or the client that encodes for it, refused; None when Redis is away or busy."""
    said = " ".join(str(error).split())
    for kind in _KINDS:
        if isinstance(error, kind.errors) or re.search(kind.pattern, said):
            cause = f"{kind.cause} ({said[:300]})" if said else kind.cause
            return Refusal(kind.code, cause, kind.remedy, passes=True, status=kind.status)
    if isinstance(error, _OUTAGES) or _OUTAGE.search(said):
        return None
    return Refusal(
        "store_refused",
        f"Redis does not take what is to be stored: {type(error).__name__}: {said[:300]}",
        "this is no outage, and the same request would fail again",
        passes=False,
        status=HTTPStatus.INTERNAL_SERVER_ERROR,
    )


def explained(error: Exception) -> str:
    """What happened, in a sentence for logs."""
    refusal = refusal_of(error)
    return f"Redis does not answer: {error}" if refusal is None else str(refusal)
