"""Connects a scheduler process to Ray."""

from __future__ import annotations

import logging
import math
import os
from typing import Any

from drmad_service.errors import ServiceStartError

WARM_MODULE = "drmad_workers.ray_actor.warm_process"


def start_ray(address: str, cpus: float | None, warm: int = 0) -> None:
    """Connects this process to Ray; "local" starts Ray on this machine, on loopback only.

    Args:
        warm: idle worker processes that a local Ray keeps, with torch imported. Nodes of other
            clusters are told so by their own environment.
    Raises:
        ServiceStartError: this machine cannot join the cluster at `address`.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # A scheduler that lost the head node exits soon, and its supervisor restarts it.
    os.environ.setdefault("RAY_gcs_rpc_server_reconnect_timeout_s", "10")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    local: dict[str, Any] = {}
    if address == "local":
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
        # A missing package fails at once; pip itself retries lost connections.
        os.environ.setdefault("RUNTIME_ENV_RETRY_TIMES", "1")
        own_cpus = cpus if cpus is not None else os.cpu_count() or 1
        if warm:
            os.environ.setdefault("RAY_preload_python_modules", WARM_MODULE)
            # Ray keeps as many processes as CPUs, the busy ones among them, and starts them all at
            # once when a driver connects.
            processes = math.ceil(own_cpus) + warm
            os.environ.setdefault("RAY_num_workers_soft_limit", str(processes))
            os.environ.setdefault("RAY_prestart_worker_first_driver", "0")
        local = {
            "num_cpus": own_cpus,
            "object_store_memory": 512 << 20,
            "include_dashboard": False,
        }
    import ray

    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.WARNING, **local)
    except ConnectionError as error:
        raise ServiceStartError(
            f"cannot join a Ray cluster at {address}: {error}; make this machine one of its nodes "
            "(ray start --address ...), and if the cluster requires a token, set "
            "RAY_AUTH_MODE=token and RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH here too"
        ) from error
