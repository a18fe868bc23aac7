"""What a job is told of an error of Ray: the root cause of a page of words, and what to do."""

from __future__ import annotations

from ray.exceptions import OutOfMemoryError, RayError, RayTaskError, RuntimeEnvSetupError

from drmad_workers.ray_actor.failures import LESS_MEMORY, OUT_OF_MEMORY
from drmad_workers.ray_actor.messages import Failure

REPLICA_LOST = "replica_lost"
LOSSES = (REPLICA_LOST, OUT_OF_MEMORY)
"""Codes of what another replica may survive."""

_ENDED = (
    "the process of the replica ended without a word. Either its code ended it (os._exit, a crash "
    "of native code), and drmad logs has what it printed last; or the machine lacked memory and "
    f"the system killed it: {LESS_MEMORY}, and resources.memory_bytes bounds it before that"
)


def failure_of(error: RayError) -> Failure:
    """Why a replica does not answer."""
    cause = error.cause if isinstance(error, RayTaskError) else error
    if isinstance(cause, RuntimeEnvSetupError):
        return Failure("requirements", _why_not_installed(cause))
    if not isinstance(cause, RayError):
        return Failure("worker_error", f"{type(cause).__name__}: {cause}")
    if isinstance(cause, OutOfMemoryError):
        return Failure(OUT_OF_MEMORY, f"{_root_cause(cause)}; {LESS_MEMORY}")
    return Failure(REPLICA_LOST, _root_cause(cause))


def _root_cause(error: RayError) -> str:
    """Of the many lines of Ray's message, the one that says what happened."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    if "error raised in its creation task" in lines[0]:  # a traceback, its error last
        return f"the replica could not be made: {lines[-1]}"
    for line in lines:
        if "exit detail:" in line:
            detail = line.partition("exit detail:")[2].strip()
            return _ENDED if "End of file" in detail else detail
    return next((line for line in lines if "is dead because" in line), lines[0])


def _why_not_installed(error: RuntimeEnvSetupError) -> str:
    """What pip said, of all that Ray says about it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = [line for line in lines if line.startswith(("ERROR:", "error:"))]
    return "the requirements could not be installed: " + ("; ".join(said[-2:]) or lines[-1])
