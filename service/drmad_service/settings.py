"""Every setting of the service, as typed objects.

A field made by `setting` is a flag and a DRMAD_... variable too; the others the commands fill.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from drmad_service.flags import setting
from drmad_service.job_limits import Bounds
from drmad_service.scheduling.webhooks import Webhooks
from drmad_service.store import StoreSettings


@dataclass(frozen=True)
class _Settings:
    """Of every process that uses the store."""

    redis_url: str = field(repr=False)
    store: StoreSettings = field(default_factory=StoreSettings)
    webhooks: Webhooks = field(default_factory=Webhooks)
    data_dir: Path = Path("data")
    """Where the API keeps uploaded data sets: a folder that the workers have too."""


@dataclass(frozen=True)
class ApiSettings(_Settings):
    """Of one API process."""

    local_key: str | None = field(default=None, repr=False)
    """What `drmad up` keeps in its home, or the operator's own."""
    open_without_keys: bool = True
    """While there is no key at all, whoever reaches the service may do all: on loopback alone."""
    bounds: Bounds = field(default_factory=Bounds)
    """Of a job."""
    hosts: tuple[str, ...] = ()
    """Names under which the service is reached, besides loopback's; "*" for any."""
    max_body_bytes: int = setting(1 << 20, "Of a request.", 1024)
    max_upload_bytes: int = setting(50 << 20, "Of an archive of user code.", 0)
    max_data_bytes: int = setting(1 << 30, "Of an uploaded data set.", 0)
    requests_per_s: float = setting(100.0, "Of a key, in the long run; 0: any number.", 0)
    request_burst: int = setting(1000, "Of a key, at once.", 1)
    most_queued: int = setting(
        10_000, "Jobs that a tenant may have queued and paused; 0: any number.", 0
    )
    most_connections: int = setting(4000, "Held at once; others are answered 503.", 1)
    most_streams_of_a_key: int = setting(
        500, "Event streams and waiting requests of a key at once.", 1
    )
    patience_s: float = setting(
        20.0, "Seconds for a request's headers, and for whoever reads an answer.", 0.1
    )
    keep_alive_s: float = setting(
        15.0, "Seconds between comments on an idle event stream, at which Redis is asked again.", 1
    )
    longest_wait_s: float = setting(60.0, "Seconds that Prefer: wait=N grants at most.", 0)
    check_wait_s: float = setting(200.0, "Seconds that a check may wait for a worker's answer.", 1)
    session_s: int = setting(30 * 24 * 3600, "Seconds that a browser stays signed in.", 60)
    allow_requirements: bool = False
    """Whether jobs may have packages installed on the workers."""


@dataclass(frozen=True)
class SchedulerSettings(_Settings):
    """Of one scheduler process."""

    ray_address: str = "local"
    cpus: float | None = None
    """CPUs of the local Ray; None takes all of this machine's."""
    lease_s: float = setting(
        10.0, "Seconds after which a lost scheduler's jobs are taken over.", 0.5
    )
    poll_s: float = setting(
        0.2, "Seconds between two looks at the queue, and at the progress of a running job.", 0.01
    )
    start_timeout_s: float = setting(
        120.0, "Seconds that replicas may take to be placed and to build the problem.", 1
    )
    install_timeout_s: float = setting(
        900.0, "Seconds that a job's requirements may take to be installed, beside that.", 1
    )
    check_timeout_s: float = setting(
        180.0, "Seconds that the check of a job that is not created may take.", 1
    )
    retry_s: float = setting(
        1.0, "Seconds before a lost replica is replaced; doubles with each loss in a row.", 0
    )
    longest_retry_s: float = setting(60.0, "Seconds before a lost replica is replaced, at most.", 0)
    last_lines_s: float = setting(
        0.5, "Seconds that a job's replicas have at its end to tell what they printed.", 0
    )
    ray_timeout_s: float = setting(
        10.0, "Seconds that Ray may stay silent before the scheduler starts anew.", 1
    )
    nodes_s: float = setting(5.0, "Seconds between two tellings of the cluster's nodes.", 0.1)
    tenant_jobs: float = setting(1e9, "Jobs that a tenant may have running.", 1)
    tenant_gpus: float = setting(1e9, "GPUs that a tenant may have in use.", 0)
    max_hyperparameters: int = setting(
        Bounds.hyperparameters, "Values that a job tunes, together, once a worker has counted.", 1
    )
    max_model_bytes: int = setting(64 << 20, "Larger models are not kept.", 0)
    keep_ended_s: float = setting(
        30 * 24 * 3600.0, "Seconds that ended jobs, and uploads that no job names, are kept.", 0
    )
    sweep_s: float = setting(
        60.0, "Seconds between two looks for what is kept too long, and how full Redis is.", 1
    )
    replica_memory_bytes: int = 0
    """What a replica without a GPU may allocate where its job says nothing; 0 for all there is."""
    data_roots: tuple[Path, ...] = ()
    """Folders of the workers below which jobs may read data."""
    heartbeat_file: Path | None = None
    """Touched whenever the scheduler has looked at the queue."""


@dataclass(frozen=True)
class SupervisorSettings:
    """Of `drmad up`."""

    stop_s: float = setting(8.0, "Seconds that its processes have to stop.", 0)
    settled_s: float = setting(
        10.0, "A process that ran so many seconds is started again at once when it exits.", 0
    )
    longest_restart_s: float = setting(
        30.0, "Seconds before a process that keeps exiting is started again, at most.", 0.5
    )
