"""Worker processes that wait for an actor with torch imported.

Importing torch takes most of the time in which a small job starts. Each process has an environment
variable of its own, and Ray places an actor or a task only in a process whose variables it asks
for: nothing else runs in it before the actor that takes it, and it ends with that actor.

Ray has no public function that starts a process in advance. This is the request by which its own
libraries do so; where a release of Ray refuses it, jobs start without such processes.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections import defaultdict
from typing import Any

logger = logging.getLogger(__name__)

_VARIABLE = "DRMAD_WORKER_PROCESS"
STARTING_S = 15.0
"""A process may be taken this long after its start: an earlier actor would start another one."""
KEPT_S = 600
"""Ray ends idle processes above its limit after this time; fewer of them stay."""
REQUEST_S = 2.0


class WarmProcesses:
    """The waiting processes of every node, by the value of their variable."""

    def __init__(self) -> None:
        self._started: dict[str, dict[str, float]] = defaultdict(dict)

    def keep(self, node: str, count: int) -> None:
        """Start processes on a node until `count` of them wait or start."""
        for _ in range(count - len(self._started[node])):
            name = secrets.token_hex(8)
            try:
                _start(node, name)
            except Exception as error:  # of a private interface
                logger.warning("no worker process waits on node %s: %s", node, error)
                return
            self._started[node][name] = time.monotonic()

    def take(self, node: str) -> dict[str, Any]:
        """The options of an actor that takes a process of the node; none if no process waits."""
        latest = time.monotonic() - STARTING_S
        started = self._started[node]
        name = next((name for name, at in started.items() if at <= latest), None)
        if name is None:
            return {}
        del started[name]
        return {"runtime_env": _environment(name)}


def _environment(name: str) -> dict[str, Any]:
    return {"env_vars": {_VARIABLE: name}}


def _start(node: str, name: str) -> None:
    """
    Raises:
        Exception: the node is gone, or Ray does not know the request.
    """
    import ray
    from ray._private.grpc_utils import init_grpc_channel
    from ray.core.generated import common_pb2, node_manager_pb2, runtime_environment_pb2
    from ray.core.generated.node_manager_pb2_grpc import NodeManagerServiceStub
    from ray.runtime_env import RuntimeEnv

    languages: Any = common_pb2
    requests: Any = node_manager_pb2
    environments: Any = runtime_environment_pb2
    stub: Any = NodeManagerServiceStub
    nodes = ray.nodes()  # type: ignore[no-untyped-call]
    at = next(each for each in nodes if each["NodeID"] == node and each["Alive"])
    environment = RuntimeEnv(**_environment(name)).serialize()
    request = requests.PrestartWorkersRequest(
        language=languages.PYTHON,
        num_workers=1,
        keep_alive_duration_secs=KEPT_S,
        runtime_env_info=environments.RuntimeEnvInfo(serialized_runtime_env=environment),
    )
    with init_grpc_channel(f"{at['NodeManagerAddress']}:{at['NodeManagerPort']}") as channel:
        stub(channel).PrestartWorkers(request, timeout=REQUEST_S)
