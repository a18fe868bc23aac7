"""Every setting of the service, as typed objects that pydantic validates.

A field that `setting` declares is a flag and a DRMAD_... variable too. The commands fill the other
fields from their own options, because these need more than their text: a home, a file, a host.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field
from pydantic.dataclasses import dataclass

from drmad_service.flags import setting
from drmad_service.job_limits import MAX_HYPERPARAMETERS, JobLimits
from drmad_service.oidc_settings import OidcSettings
from drmad_service.scheduling.notifications.mail import Mail
from drmad_service.scheduling.notifications.webhooks import Webhooks
from drmad_service.store import StoreSettings
from drmad_service.store.jobs.placement import UNLIMITED, NodeCapacity
from drmad_workers.artifacts.job_artifacts import JobArtifacts
from drmad_workers.artifacts.store import ArtifactLocation


def _absolute(folders: tuple[Path, ...]) -> tuple[Path, ...]:
    return tuple(folder.expanduser().resolve() for folder in folders)


Folders = Annotated[tuple[Path, ...], AfterValidator(_absolute)]


def _node_group(text: str) -> tuple[int, float, float]:
    """Number of nodes, and CPUs and GPUs of each."""
    match = re.fullmatch(r"(\d+):(\d+(?:\.\d+)?)(?::(\d+))?", text)
    if match is None:
        raise ValueError(
            "a group of the autoscaler must be NODES:CPUS or NODES:CPUS:GPUS, such as 8:4 or "
            f"4:16:2, got {text!r}"
        )
    return int(match[1]), float(match[2]), float(match[3] or 0)


def _node_groups(texts: tuple[str, ...]) -> tuple[str, ...]:
    for text in texts:
        _node_group(text)
    return texts


def _root_path(text: str) -> str:
    root = text.rstrip("/")
    if root and re.fullmatch(r"(/[A-Za-z0-9._~-]+)+", root) is None:
        raise ValueError(
            "the root path must begin with a slash and hold letters, digits and ._~- alone, as in "
            f"/tuning, got {text!r}"
        )
    return root


RootPath = Annotated[str, AfterValidator(_root_path)]
NodeGroups = Annotated[tuple[str, ...], AfterValidator(_node_groups)]


DATA_ROOTS = setting(
    (),
    "Folder on the workers below which jobs may read data; may be repeated.",
    name="data_roots",
    flag="data_root",
)
RAY_ADDRESS = setting("local", "Address of the Ray cluster; local starts Ray on this machine.")
RAY_DRIVER = setting(
    "",
    "Host and port of `drmad ray-driver` on a machine of the Ray cluster, which drives Ray in "
    "place of a process that this scheduler starts; the scheduler is then on no machine of the "
    "cluster.",
)
_CPUS = setting(
    None, "CPUs of this machine that its local Ray offers to jobs; all of them by default.", 0.1
)
_WORKER_USER = setting(
    "",
    "User as whom Ray and user code run on this machine, if root starts the service; without it "
    "they run as the user of the service, and Landlock keeps them from its files and processes.",
)
_ALLOW_REQUIREMENTS = setting(
    False,
    "Allow jobs to install packages from PyPI on the workers, each job in its own environment.",
)


@dataclass(frozen=True)
class _Settings:
    """Settings of every process that uses the store."""

    redis_url: str = Field(repr=False)
    store: StoreSettings = Field(default_factory=StoreSettings)
    webhooks: Webhooks = Field(default_factory=Webhooks)
    mail: Mail = Field(default_factory=Mail)
    data_dir: Path = Path("data")
    """Folder of uploaded data sets, which the API and the workers share."""
    artifacts: ArtifactLocation | None = Field(default=None, repr=False)
    """Where large results are kept; None stands for the folder of uploads."""

    @property
    def artifact_location(self) -> ArtifactLocation:
        return self.artifacts or ArtifactLocation(str(self.data_dir))


@dataclass(frozen=True)
class ApiSettings(_Settings):
    """Settings of one API process."""

    local_key: str | None = Field(default=None, repr=False)
    """Key of the home of `drmad up`, or the one in the operator's key file."""
    open_without_keys: bool = True
    """Allows every request as long as no key exists; only for a service on loopback."""
    job_limits: JobLimits = Field(default_factory=JobLimits)
    oidc: OidcSettings = Field(default_factory=OidcSettings)
    allowed_hosts: tuple[str, ...] = setting(
        (),
        "Host name by which clients reach the service, besides localhost; may be repeated, * "
        "allows any name.",
        flag="allowed_host",
    )
    root_path: RootPath = setting(
        "",
        "Path below which a proxy offers the service, as in /tuning; empty where it has a host of "
        "its own.",
    )
    trusted_proxies: tuple[str, ...] = setting(
        (),
        "Address or network of a proxy in front, besides loopback, whose X-Forwarded-Proto and "
        "X-Forwarded-For are believed; may be repeated.",
        flag="trusted_proxy",
    )
    failed_key_delay_s: float = setting(
        1.0,
        "Delay of the refusal of an unknown key after ten from one address in a minute, in "
        "seconds; 0 delays nothing.",
        0,
    )
    allow_requirements: bool = _ALLOW_REQUIREMENTS
    max_body_bytes: int = setting(1 << 20, "Maximum size of a request body, in bytes.", 1024)
    max_upload_bytes: int = setting(
        50 << 20, "Maximum size of an uploaded code archive, in bytes.", 0
    )
    max_data_bytes: int = setting(1 << 30, "Maximum size of an uploaded data set, in bytes.", 0)
    requests_per_s: float = setting(
        100.0, "Sustained request rate per key, in requests per second; 0 sets no limit.", 0
    )
    request_burst: int = setting(
        1000, "Maximum burst of requests per key, above its sustained rate.", 1
    )
    tenant_bytes: int = setting(
        0,
        "Maximum bytes that a tenant's jobs and uploads store, about; above it new jobs and "
        "uploads are refused. 0 sets no limit.",
        0,
    )
    tenant_uploads: int = setting(32, "Maximum uploads of a tenant under way at once.", 1)
    most_queued: int = setting(
        10_000, "Maximum queued and paused jobs per tenant; 0 sets no limit.", 0
    )
    most_connections: int = setting(
        4000, "Maximum open connections per process; the service answers further ones with 503.", 1
    )
    most_streams_of_a_key: int = setting(
        500, "Maximum open event streams and waiting requests per key and process.", 1
    )
    slow_client_timeout_s: float = setting(
        20.0,
        "Maximum time for a client to send a request's headers, and maximum time without progress "
        "while it reads a response, in seconds; the service then closes the connection.",
        0.1,
        name="patience_s",
    )
    keep_alive_s: float = setting(
        15.0,
        "Interval between keep-alive comments on an idle event stream, and between reads of its "
        "job, in seconds.",
        0.1,
    )
    longest_wait_s: float = setting(
        60.0, "Maximum time that a request with Prefer: wait=N may wait, in seconds.", 0
    )
    check_wait_s: float = setting(
        200.0, "Maximum time that a preflight request waits for a worker's report, in seconds.", 0
    )
    session_s: int = setting(
        30 * 24 * 3600, "Time after which a browser's session expires, in seconds.", 60
    )


@dataclass(frozen=True)
class SchedulerSettings(_Settings):
    """Settings of one scheduler process."""

    ray_address: str = RAY_ADDRESS
    cpus: float | None = _CPUS
    ray_driver: str = RAY_DRIVER
    worker_user: str = _WORKER_USER
    warm_workers: int = setting(
        1,
        "Worker processes of each node that wait for a job with torch imported, about 300 MB each; "
        "0 keeps none. Nodes of a Ray cluster also need the variables that docs/how-to/deploy.md "
        "lists.",
        0,
    )
    worker_variables: tuple[str, ...] = setting(
        (),
        "Environment variable that the workers receive too, besides those of a fixed list; may be "
        "repeated. User code reads it.",
        flag="worker_variable",
    )
    public_url: str = setting(
        "",
        "Address at which people reach the dashboard, to which notifications link; empty links "
        "nowhere.",
    )
    lease_s: float = setting(
        10.0,
        "Lifetime of a lease without renewal, in seconds; another scheduler then takes over the "
        "job.",
        0.5,
    )
    poll_s: float = setting(
        0.2,
        "Interval between polls of the queue and of a running job's progress, in seconds.",
        0.01,
    )
    start_timeout_s: float = setting(
        120.0, "Maximum time to place a job's replicas and build its problem, in seconds.", 1
    )
    install_timeout_s: float = setting(
        900.0,
        "Maximum time to install a job's requirements, in seconds, in addition to the start "
        "timeout.",
        1,
    )
    check_timeout_s: float = setting(
        180.0, "Maximum duration of a preflight that `drmad check` requests, in seconds.", 1
    )
    worker_requests: int = setting(
        4,
        "Maximum preflights of `drmad check`, and maximum shown examples, that this scheduler "
        "answers at once beside the jobs.",
        1,
    )
    tenant_worker_requests: int = setting(
        2, "Maximum of these that it answers at once for one tenant.", 1
    )
    retry_s: float = setting(
        1.0,
        "Delay before a lost replica is replaced, in seconds; it doubles with each consecutive "
        "loss.",
        0,
    )
    longest_retry_s: float = setting(
        60.0, "Maximum delay before a lost replica is replaced, in seconds.", 0
    )
    last_lines_s: float = setting(
        0.5, "Maximum time to collect a job's trailing log lines when it ends, in seconds.", 0
    )
    remains_s: float = setting(
        60.0,
        "Maximum time to read what lost replicas printed last, on their nodes, in seconds.",
        0,
    )
    ray_timeout_s: float = setting(
        10.0,
        "Time without an answer from Ray, in seconds, after which the scheduler exits to be "
        "restarted.",
        1,
    )
    nodes_s: float = setting(
        5.0, "Interval between reports of the cluster's nodes, in seconds.", 0.1
    )
    tenants: tuple[str, ...] = setting(
        (),
        "Tenant whose jobs this scheduler drives, and no other tenant's; may be repeated. Tenants "
        "who must not trust each other need a scheduler and a Ray cluster each.",
        flag="tenant",
    )
    not_tenants: tuple[str, ...] = setting(
        (),
        "Tenant whose jobs this scheduler never drives, because another scheduler does; may be "
        "repeated.",
        flag="not_tenant",
    )
    tenant_jobs: float = setting(UNLIMITED, "Maximum running jobs per tenant.", 1)
    tenant_replicas: float = setting(UNLIMITED, "Maximum running replicas per tenant.", 1)
    tenant_gpus: float = setting(UNLIMITED, "Maximum GPUs in use per tenant.", 0)
    autoscaler_groups: NodeGroups = setting(
        (),
        "Nodes that Ray's autoscaler may add, as NODES:CPUS or NODES:CPUS:GPUS of each; may be "
        "repeated. Jobs that only these could hold wait for them, and the scheduler requests them.",
        flag="autoscaler_group",
    )
    max_hyperparameters: int = setting(
        MAX_HYPERPARAMETERS,
        "Maximum hyperparameter values per job, as counted by its worker.",
        1,
    )
    max_model_bytes: int = setting(
        16 << 30, "Maximum size of a stored model, in bytes; larger models are not stored.", 0
    )
    inline_bytes: int = setting(
        4 << 20,
        "Maximum size of a model that is stored in Redis, in bytes; larger ones go to the artifact "
        "store.",
        0,
    )
    worker_artifacts: ArtifactLocation | None = Field(default=None, repr=False)
    """The artifact store with the credentials that workers get; None stands for the scheduler's."""
    keep_ended_s: float = setting(
        30 * 24 * 3600.0,
        "Time that the service keeps ended jobs, and uploads that no job names, in seconds.",
        0,
    )
    sweep_s: float = setting(
        60.0,
        "Interval between deletions of expired jobs and uploads, and between checks of Redis's "
        "memory, in seconds.",
        1,
    )
    replica_memory_mib: int = setting(
        0,
        "Maximum memory of a replica without a GPU whose job sets none, in MiB; 0 sets no limit.",
        0,
        name="replica_memory",
    )
    data_roots: Folders = DATA_ROOTS
    heartbeat_file: Path | None = setting(
        None, "File that the scheduler touches after each poll of the queue, for liveness probes."
    )

    @property
    def autoscaler(self) -> tuple[NodeCapacity, ...]:
        """The nodes that an autoscaler may add."""
        return tuple(
            NodeCapacity("", cpus, gpus)
            for count, cpus, gpus in map(_node_group, self.autoscaler_groups)
            for _ in range(count)
        )

    @property
    def replica_memory_bytes(self) -> int:
        return self.replica_memory_mib << 20

    def job_artifacts(self, job_id: str) -> JobArtifacts:
        """What the workers of a job get, to keep its large results."""
        location = self.worker_artifacts or self.artifact_location
        return JobArtifacts(location, job_id, self.inline_bytes)


@dataclass(frozen=True)
class SupervisorSettings:
    """Settings of `drmad up`; it passes some of them on to the API and the scheduler."""

    data_roots: Folders = DATA_ROOTS
    cpus: float | None = _CPUS
    worker_user: str = _WORKER_USER
    allow_requirements: bool = _ALLOW_REQUIREMENTS
    max_memory_mib: int = setting(
        2048,
        "Maximum memory of the Redis that `drmad up` runs, in MiB; the service refuses new jobs "
        "above 80 % of it; 0 sets no limit.",
        0,
        name="max_memory",
    )
    stop_s: float = setting(
        6.0, "Maximum time for the processes to stop, in seconds; they are then killed.", 0
    )
    settled_s: float = setting(
        10.0,
        "Uptime in seconds after which a process that exits is restarted without a growing delay.",
        0,
    )
    longest_restart_s: float = setting(
        30.0, "Maximum delay before a process that keeps exiting is restarted, in seconds.", 0.5
    )
