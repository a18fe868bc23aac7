"""The exceptions of drmad.

DrmadError
  ├─ ConnectionFailed         the service cannot be reached, or its answer ended early
  ├─ JobFailed                the awaited job failed or was cancelled
  ├─ ValidationFailed         the awaited validation failed or was cancelled
  ├─ RetrainingFailed         the awaited retraining failed or was cancelled
  ├─ WaitTimeout              the job did not end within the given time
  ├─ UsageError               an argument, an option or a file of the caller does not hold
  │    └─ BadArgument            an argument of a function
  └─ ApiError                 the service answered with a problem (status, code, field errors)
       ├─ BadRequest            400, 413
       ├─ AuthenticationFailed  401
       ├─ PermissionDenied      403
       ├─ NotFound              404
       ├─ Conflict              409
       ├─ UnprocessableEntity   422
       ├─ RateLimited           429
       └─ ServerError           5xx

JobWarning, a category of Python's warnings, says what makes the figures of an awaited job doubtful.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # every command of the CLI imports the errors, and pydantic loads slowly
    from drmad_client.records.job import JobRecord
    from drmad_client.records.problem_details import FieldError, ProblemDetails
    from drmad_client.records.side_runs.retraining import Retraining
    from drmad_client.records.side_runs.validation import Validation


class DrmadError(Exception):
    """Base of every exception of drmad. All of them survive pickle and copy."""

    def __reduce__(self) -> tuple[Any, ...]:
        # By default pickle calls the class with its message, which many do not take.
        return _restored, (type(self), self.args, self.__dict__)


def _restored(kind: type[DrmadError], args: tuple[Any, ...], state: dict[str, Any]) -> DrmadError:
    error = kind.__new__(kind, *args)
    error.__dict__.update(state)
    return error


class ConnectionFailed(DrmadError):
    """The service cannot be reached, or its answer ended early."""


class JobFailed(DrmadError):
    """The awaited job failed or was cancelled.

    Attributes:
        job: the job in its terminal state; its `error` is the root cause.
        log_tail: the trailing log lines of its replicas.
    """

    def __init__(self, job: JobRecord, log_tail: Sequence[str] = ()) -> None:
        self.job = job
        self.log_tail = list(log_tail)
        cause = job.error.message if job.error else job.message
        super().__init__(f"job {job.id} {job.status}: {cause or job.reason}")


class ValidationFailed(DrmadError):
    """The awaited validation of a hypergradient failed or was cancelled.

    Attributes:
        validation: the validation in its last state; its `error` is the root cause.
    """

    def __init__(self, validation: Validation) -> None:
        self.validation = validation
        error = validation.error
        cause = f": {error.message}" if error else ""
        super().__init__(f"{validation.id} {validation.status}{cause}")


class RetrainingFailed(DrmadError):
    """The awaited retraining failed or was cancelled.

    Attributes:
        retraining: the retraining in its last state; its `error` is the root cause.
    """

    def __init__(self, retraining: Retraining) -> None:
        self.retraining = retraining
        error = retraining.error
        cause = f": {error.message}" if error else ""
        super().__init__(f"{retraining.id} {retraining.status}{cause}")


class JobWarning(UserWarning):
    """A warning of an awaited job, such as a hypergradient of low fidelity; see JobRecord."""


class WaitTimeout(DrmadError):
    """The job did not end within the given time."""


class UsageError(DrmadError):
    """An argument, an option or a file of the caller does not hold; nothing was asked or done."""


class BadArgument(UsageError, ValueError):
    """An argument of a function does not hold."""


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
    """The service cannot parse the request."""


class AuthenticationFailed(ApiError):
    """The request carries no API key, or an unknown one."""


class PermissionDenied(ApiError):
    """The API key does not permit the request."""


class NotFound(ApiError):
    """The job or resource does not exist."""


class Conflict(ApiError):
    """The state of the job does not permit the request."""


class UnprocessableEntity(ApiError):
    """Some fields of the request are invalid; see `errors`."""


class RateLimited(ApiError):
    """The client exceeded its request rate."""


class ServerError(ApiError):
    """The service failed to answer the request."""


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
