"""Ray's errors as failures of a job: the root cause in one sentence, and the remedy."""

from __future__ import annotations

from ray.exceptions import OutOfMemoryError, RayError, RayTaskError, RuntimeEnvSetupError

from drmad_workers.ray_actor.failures import LESS_MEMORY, OUT_OF_MEMORY, REPLICA_LOST
from drmad_workers.ray_actor.messages import Failure

_ENDED = (
    "the process of the replica exited without an error message. Either its code ended it "
    "(os._exit, a crash of native code), and `drmad logs` shows its last lines; or the machine ran "
    f"out of memory and the system killed it: {LESS_MEMORY}, and resources.memory_bytes bounds it"
)


def failure_of(error: Exception) -> Failure:
    """The failure that explains why a replica does not answer."""
    cause = error.cause if isinstance(error, RayTaskError) else error
    if isinstance(cause, RuntimeEnvSetupError):
        return Failure("requirements", _why_not_installed(cause))
    if not isinstance(cause, RayError):
        return Failure("worker_error", f"{type(cause).__name__}: {cause}")
    if isinstance(cause, OutOfMemoryError):
        return Failure(OUT_OF_MEMORY, f"{_root_cause(cause)}; {LESS_MEMORY}")
    return Failure(REPLICA_LOST, _root_cause(cause))


def _root_cause(error: RayError) -> str:
    """The line of Ray's message that names the cause."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    if "error raised in its creation task" in lines[0]:  # a traceback, its error last
        return f"the replica could not be created: {lines[-1]}"
    for line in lines:
        if "exit detail:" in line:
            detail = line.partition("exit detail:")[2].strip()
            return _ENDED if "End of file" in detail else detail
    return next((line for line in lines if "is dead because" in line), lines[0])


def _why_not_installed(error: RuntimeEnvSetupError) -> str:
    """The last error lines of pip within Ray's message."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith(("ERROR:", "error:"))]
    return "the requirements could not be installed: " + ("; ".join(errors[-2:]) or lines[-1])
