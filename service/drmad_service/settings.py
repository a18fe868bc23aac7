"""Every setting of the service, as one typed object. Flags and DRMAD_... variables fill it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from drmad_service.bounds import Bounds
from drmad_service.webhooks import Webhooks


@dataclass(frozen=True)
class ApiSettings:
    """Of one API process."""

    redis_url: str = field(repr=False)
    local_key: str | None = field(default=None, repr=False)
    """What `drmad up` keeps in its home, or the operator's own."""
    open_without_keys: bool = True
    """While there is no key at all, whoever reaches the service may do all: on loopback alone."""
    hosts: tuple[str, ...] = ()
    """Names under which the service is reached, besides loopback's; "*" for any."""
    max_body_bytes: int = 1 << 20
    max_upload_bytes: int = 50 << 20
    """Of an archive of user code."""
    requests_per_s: float = 0.0
    """Of a key in the long run; 0 for any number."""
    request_burst: int = 1000
    """Of a key at once."""
    most_queued: int = 0
    """Jobs that a tenant may have queued and paused; 0 for any number."""
    max_data_bytes: int = 1 << 30
    """Of an uploaded data set."""
    data_dir: Path = Path("data")
    """Where uploaded data sets are kept: a folder that the workers have too."""
    bounds: Bounds = field(default_factory=Bounds)
    """Of a job."""
    webhooks: Webhooks = field(default_factory=Webhooks)
    """Where jobs may send their notices."""
    most_streams: int = 2000
    """Event streams and long polls that one process holds."""
    most_streams_of_a_key: int = 500
    patience_s: float = 20.0
    """For a request's headers, for its body on a fast line, for whoever reads an answer."""
    keep_alive_s: float = 15.0
    """Seconds between comments on an idle event stream, and between looks that ask Redis again."""
    check_wait_s: float = 200.0
    """How long a check of a job may wait for a worker's answer."""
    allow_requirements: bool = False
    """Whether jobs may have packages installed on the workers."""
    longest_wait_s: float = 60.0
    """Longest wait that `Prefer: wait=N` is granted."""


@dataclass(frozen=True)
class SchedulerSettings:
    """Of one scheduler process."""

    redis_url: str = field(repr=False)
    ray_address: str = "local"
    cpus: float | None = None
    """CPUs of the local Ray; None takes all of this machine's."""
    lease_s: float = 10.0
    poll_s: float = 0.2
    """Seconds between two looks at the queue, and at the progress of a running job."""
    start_timeout_s: float = 120.0
    """How long replicas may take until they have built the problem."""
    check_timeout_s: float = 180.0
    """How long the check of a job that is not created may take."""
    retry_s: float = 1.0
    """Pause before a lost replica is replaced; doubles with each loss in a row."""
    longest_retry_s: float = 60.0
    """That pause at most."""
    redis_pause_s: float = 2.0
    """Between two tries to reach Redis again, at most."""
    ray_timeout_s: float = 10.0
    """How long Ray may stay silent before the scheduler gives its jobs back and exits."""
    tenant_jobs: float = 1e9
    """Jobs that one tenant may have running."""
    tenant_gpus: float = 1e9
    """GPUs that one tenant may have in use."""
    webhooks: Webhooks = field(default_factory=Webhooks)
    """Where jobs may send their notices, and what signs them."""
    vector_bytes: int = 256 << 20
    """Budget of a job's states and hypergradients; the middle ones are thinned."""
    keep_ended_s: float = 30 * 24 * 3600.0
    """How long a job that has ended is kept."""
    sweep_s: float = 60.0
    """From one look for what is kept too long, and how full Redis is, to the next."""
    max_hyperparameters: int = Bounds.hyperparameters
    """Values that a job tunes, where its spec alone does not tell how many they are."""
    replica_memory_bytes: int = 0
    """What a replica without a GPU may allocate where its job says nothing; 0 for all there is."""
    max_model_bytes: int = 64 << 20
    """Larger models are not kept."""
    data_roots: tuple[Path, ...] = ()
    """Folders of the workers below which jobs may read data."""
    data_dir: Path = Path("data")
    """Where the API keeps uploaded data sets; workers find them there."""
    heartbeat_file: Path | None = None
    """Touched whenever the scheduler has looked at the queue."""
