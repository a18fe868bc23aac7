"""The failure of a job names the cause in Ray's (shortened) error text, and the remedy."""

from __future__ import annotations

import pytest
from ray.exceptions import (
    ActorDiedError,
    OutOfMemoryError,
    RayError,
    RayTaskError,
    RuntimeEnvSetupError,
    WorkerCrashedError,
)

from drmad_service.ray_driver.ray_errors import failure_of
from drmad_workers.ray_actor.failures import LOSSES

MADE = """The actor died because of an error raised in its creation task, ray::Replica.__init__()
  File "tasks.py", line 101, in __init__
    self._numbers = list(replicas)
TypeError: 'int' object is not iterable
"""
EXITED = """The actor died unexpectedly before finishing this task.
\tclass_name: Replica
The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR Worker exit \
detail: Worker unexpectedly exits with a connection error code 2. End of file. Some common causes \
include: (1) the process was killed by the OOM killer due to high memory usage, (2) ...
"""
KILLED = EXITED.replace(
    "Worker unexpectedly exits with a connection error code 2. End of file.", "the node was lost."
)
NODE = """The actor died unexpectedly before finishing this task.
\tclass_name: Replica
The actor is dead because its node has died. Node Id: 17dc
"""
PIP = """Failed to set up runtime environment.
Collecting toolz==0.0.0.1
ERROR: Could not find a version that satisfies the requirement toolz==0.0.0.1
ERROR: No matching distribution found for toolz==0.0.0.1
Traceback ...
"""


NO_MEMORY = OutOfMemoryError("killed due to low memory")  # type: ignore[no-untyped-call]
RAISED = RayTaskError("f", "...", KeyError("x"))  # type: ignore[no-untyped-call]


def died(words: str) -> ActorDiedError:
    error = ActorDiedError()
    error.error_msg = words
    return error


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (died(MADE), "replica_lost", "could not be created: TypeError: 'int'"),
        (died(EXITED), "replica_lost", "os._exit"),
        (died(EXITED), "replica_lost", "a smaller training.batch_size"),
        (died(KILLED), "replica_lost", "the node was lost."),
        (died(NODE), "replica_lost", "its node has died"),
        (NO_MEMORY, "out_of_memory", "hypergradient.budget"),
        (RuntimeEnvSetupError(PIP), "requirements", "could not be installed: ERROR: Could"),
        (RAISED, "worker_error", "KeyError: 'x'"),
        (WorkerCrashedError(), "replica_lost", "worker"),
    ],
)  # fmt: skip
def test_the_failure_names_the_cause_and_the_remedy(error: RayError, code: str, words: str) -> None:
    failure = failure_of(error)
    assert failure.code == code
    assert words in failure.message
    assert "\n" not in failure.message


def test_only_what_another_replica_may_survive_counts_as_a_loss() -> None:
    assert failure_of(died(EXITED)).code in LOSSES
    assert failure_of(RuntimeEnvSetupError(PIP)).code not in LOSSES
    assert failure_of(RAISED).code not in LOSSES
