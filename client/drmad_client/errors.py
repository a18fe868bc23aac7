"""What goes wrong, as exceptions.

DrmadError
  ├─ ConnectionFailed         the service was not reached, or the answer broke off
  ├─ JobFailed                the job that was waited for failed or was cancelled
  ├─ WaitTimeout              the job did not end in the time given
  └─ ApiError                 the service answered with a problem (status, code, field errors)
       ├─ BadRequest            400, 413
       ├─ AuthenticationFailed  401
       ├─ PermissionDenied      403
       ├─ NotFound              404
       ├─ Conflict              409
       ├─ UnprocessableEntity   422
       ├─ RateLimited           429
       └─ ServerError           5xx
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # pydantic takes its time, and every command of the CLI knows the errors
    from drmad_client.records.job import FieldError, JobRecord, ProblemDetails


class DrmadError(Exception):
    """Base of every exception of drmad."""


class ConnectionFailed(DrmadError):
    """The service was not reached, or its answer broke off."""


class JobFailed(DrmadError):
    """The job that was waited for did not succeed.

    Attributes:
        job: as it ended; its `error` is the root cause.
        log_tail: the last lines that its replicas printed.
    """

    def __init__(self, job: JobRecord, log_tail: Sequence[str] = ()) -> None:
        self.job = job
        self.log_tail = list(log_tail)
        cause = job.error.message if job.error else job.message
        super().__init__(f"job {job.id} {job.status}: {cause or job.reason}")


class WaitTimeout(DrmadError):
    """The job did not end in the time given."""


class ApiError(DrmadError):
    """The service answered with a problem."""

    def __init__(self, problem: ProblemDetails, request_id: str | None = None) -> None:
        self.problem = problem
        self.request_id = request_id
        fields = "".join(f"\n  {e.path}: {e.message}" for e in problem.errors)
        super().__init__(problem.detail + fields)

    @property
    def status(self) -> int:
        return self.problem.status

    @property
    def code(self) -> str:
        return self.problem.code

    @property
    def errors(self) -> list[FieldError]:
        return self.problem.errors


class BadRequest(ApiError):
    """The request could not be read."""


class AuthenticationFailed(ApiError):
    """No key, or one that the service does not know."""


class PermissionDenied(ApiError):
    """The key does not allow this."""


class NotFound(ApiError):
    """There is no such job or resource."""


class Conflict(ApiError):
    """The job's state does not allow this."""


class UnprocessableEntity(ApiError):
    """The request was read, but its fields do not fit; see `errors`."""


class RateLimited(ApiError):
    """Too many requests."""


class ServerError(ApiError):
    """The service failed."""


_BY_STATUS: dict[int, type[ApiError]] = {
    400: BadRequest,
    401: AuthenticationFailed,
    403: PermissionDenied,
    404: NotFound,
    409: Conflict,
    413: BadRequest,
    422: UnprocessableEntity,
    429: RateLimited,
}


def from_problem(problem: ProblemDetails, request_id: str | None = None) -> ApiError:
    """The exception for a problem+json answer."""
    fallback = ServerError if problem.status >= 500 else ApiError
    return _BY_STATUS.get(problem.status, fallback)(problem, request_id)


def field_errors(errors: Iterable[Mapping[str, Any]], body: Any) -> list[FieldError]:
    """pydantic's errors about `body`, each with the path and words that a user can act on.

    pydantic's `loc` names the members of unions too; what is not in the body is left out. The
    `loc` of a misfit is our own, and may name a field that was left at its default.
    """
    from drmad_client.records.job import FieldError

    return [FieldError(path=_path(error, body), message=_message(error)) for error in errors]


def _path(error: Mapping[str, Any], body: Any) -> str:
    path, here = "", body
    last = len(error["loc"]) - 1
    for depth, part in enumerate(error["loc"]):
        inside = (isinstance(here, dict) and part in here) or (
            isinstance(here, list) and isinstance(part, int) and part < len(here)
        )
        if inside:
            here = here[part]
        elif error["type"] != "misfit" and (error["type"] != "missing" or depth != last):
            continue
        path = _join(path, part)
    return _join(path, _discriminator(error)) if error["type"] in _UNION_ERRORS else path


_UNION_ERRORS = ("union_tag_invalid", "union_tag_not_found")


def _discriminator(error: Mapping[str, Any]) -> str:
    return str(error["ctx"]["discriminator"]).strip("'")


def _join(path: str, part: int | str) -> str:
    if isinstance(part, int):
        return f"{path}[{part}]"
    return f"{path}.{part}" if path else part


def _message(error: Mapping[str, Any]) -> str:
    kind, context, value = error["type"], error.get("ctx", {}), error.get("input")
    if kind == "union_tag_invalid":
        return f"must be one of {context['expected_tags']}, got {context['tag']!r}"
    if kind == "extra_forbidden":
        return "is not a known field; remove it or correct its spelling"
    if kind in ("missing", "union_tag_not_found"):
        return "is required"
    message = str(error["msg"]).replace("Input should be", "must be")
    if isinstance(value, str | int | float | bool) and len(str(value)) <= 80 and kind != "misfit":
        message += f", got {value!r}"
    return message
