"""Every Redis key of drmad, with its type, its contents and its expiry.

Times are in milliseconds of Redis's clock. Job ids sort by the time of creation, so an index with
the score 0 lists jobs in that order. <tenant>, <id> and other names in brackets are placeholders.

    key                            type    contents and expiry
    drmad:schema                   string  schema version; <from>-<to> during a migration
    drmad:schema:lock              string  token of the process that migrates; half a minute
    drmad:jobs                     zset    all job ids; score 0
    drmad:jobs:<status>            zset    job ids of one status; score 0
    drmad:tenant:<tenant>:jobs     zset    all job ids of a tenant; score 0
    drmad:tenant:<tenant>:jobs:<status>  zset  job ids of a tenant in one status; score 0
    drmad:jobs:archived:<status>   zset    those of them that are archived; score 0
    drmad:tenant:<tenant>:jobs:archived:<status>  zset  likewise, of a tenant
    drmad:queue                    zset    ids of queued jobs; score: time of creation minus a
                                           bonus for priority, so age always wins in the end
    drmad:ended                    zset    ids of terminal jobs; score: time of the end
    drmad:leases                   zset    ids of driven jobs; score: expiry of the lease
    drmad:reservations             hash    driven job id, or id of a run beside a job -> "<cpus>
                                           <gpus> <tenant>" reserved
    drmad:places                   hash    the same -> where its replicas are: a list of [node,
                                           replicas, cpus, [[number of a GPU, part], ...]] (JSON)
    drmad:reserved_at              hash    the same -> time since when it is reserved
    drmad:cluster                  hash    scheduler id -> capacity of its cluster (JSON)
    drmad:nodes                    hash    scheduler id -> nodes of its cluster (JSON)
    drmad:use                      stream  use of the cluster under the id <ms of a minute>-1:
                                           cpus, gpus, reserved_cpus, ...; the last week
    drmad:idempotency:<tenant>:<key>  string  "<job id> <sha256 of the body>"; a day
    drmad:keys                     zset    ids of API keys; score: time of creation
    drmad:key:<id>                 hash    digest (sha256), tenant, scope, note, created_at,
                                           used_at; kept until its expires_at. The id of
                                           a user whom a provider knows begins with oidc_
    drmad:bucket:<id>              hash    requests left to a key, and since when; until it is full
    drmad:session:<sha256>         string  "<id> <sha256>" of the key that opened it; 30 days
    drmad:ticket:<sha256>          string  marks a used sign-in link; as long as the link is valid
    drmad:code:<sha256>            hash    number -> a megabyte of an archive of user code
    drmad:code:<sha256>:tenants    set     tenants that uploaded the archive and may name it
    drmad:codes                    zset    sha256 of every archive; score: time of the last use
    drmad:data                     zset    sha256 of every uploaded data set, which is a file;
                                           score: time of the last use
    drmad:data:<sha256>:tenants    set     tenants that uploaded the data set and may name it
    drmad:notices                  zset    "<job id> <start or end> <channel>" of notices to send;
                                           the end by webhook is the job id alone; score: time
    drmad:counters                 hash    name of a counter -> count or seconds, see prometheus.py
    drmad:validations              zset    "<job id> <id>" of unfinished runs beside jobs, which are
                                           validations and retrainings; score: time from which a
                                           scheduler may take it
    drmad:requests:<kind>          zset    tenant -> ms at which a request of it was taken last
    drmad:requests:<kind>:<tenant> list    ids of its requests, not taken yet; ten minutes
    drmad:request:<kind>:<id>      string  what is asked (JSON); 20 s, which its asker renews
    drmad:request:<kind>:<id>:answer  string  report, error or empty (JSON); ten minutes
    drmad:examples:<id>            hash    row -> what a worker showed (JSON); groups; an hour
    drmad:recipe:<id>              string  names the file of the data of recipe.py; 25 minutes
    drmad:uploads:<tenant>         zset    uploads under way; score: time until which each counts; a
                                           minute after the last one said that it goes on
    drmad:limits                   hash    tenant -> limits of its own (JSON); kept
    drmad:audit                    stream  who did what: at, by, tenant, action, job, key, detail;
                                           the last 100,000 entries
    drmad:probe                    string  written and deleted by one script, to try whether Redis
                                           takes writes
    drmad:changes                  channel the id of each job that changes
    drmad:job:<id>                 hash    the job: spec, status, fence, progress, ...
    drmad:job:<id>:transitions     list    its last transitions (JSON)
    drmad:job:<id>:events          stream  its last events: type, at, data (JSON)
    drmad:job:<id>:history         stream  every MetaIteration (JSON) under the id <iteration>-1,
                                           which Redis refuses to add twice
    drmad:job:<id>:trials          hash    number -> a Trial of its search (JSON)
    drmad:job:<id>:validations     hash    <id> -> request (JSON); <id>:status, :needs, :token,
                                           :progress, :outcome, :finished of it
    drmad:job:<id>:retrainings     hash    likewise
    drmad:job:<id>:retrained_chunks  hash  sha256 -> up to a megabyte of a retrained model
    drmad:job:<id>:logs            stream  the last log lines of its replicas: replica, text
    drmad:job:<id>:state           string  state from which it resumes (JSON, names chunks)
    drmad:job:<id>:vectors         hash    iteration -> state and hypergradient (JSON, names chunks)
    drmad:job:<id>:models          hash    best, last -> iteration and model (JSON, names chunks)
    drmad:job:<id>:chunks          hash    sha256 -> up to a megabyte of a state or hypergradient
    drmad:job:<id>:model_chunks    hash    sha256 -> up to a megabyte of a model
    drmad:job:<id>:checkpoints     hash    iteration -> training state of each replica before it
                                           (JSON, names chunks)
    drmad:job:<id>:checkpoint_chunks  hash  sha256 -> up to a megabyte of a training state
    drmad:job:<id>:<stream>:<copy>  stream  events or history during a migration; ten minutes

The keys of a job begin with its job key and are deleted with the job.
"""

from __future__ import annotations

SCHEMA = "drmad:schema"
SCHEMA_LOCK = "drmad:schema:lock"
JOBS = "drmad:jobs"
QUEUE = "drmad:queue"
ENDED = "drmad:ended"
LEASES = "drmad:leases"
RESERVATIONS = "drmad:reservations"
PLACES = "drmad:places"
RESERVED_AT = "drmad:reserved_at"
CLUSTER = "drmad:cluster"
NODES = "drmad:nodes"
USE = "drmad:use"
CHANGES = "drmad:changes"
PROBE = "drmad:probe"
LIMITS = "drmad:limits"
AUDIT = "drmad:audit"
AUDIT_KEPT = 100_000
CODES = "drmad:codes"
KEYS = "drmad:keys"
DATA = "drmad:data"
NOTICES = "drmad:notices"
RUNS = "drmad:validations"
REQUESTS = "drmad:requests:"
REQUEST = "drmad:request:"
COUNTERS = "drmad:counters"
PARTS = (
    "transitions",
    "events",
    "history",
    "trials",
    "validations",
    "retrainings",
    "retrained_chunks",
    "logs",
    "state",
    "vectors",
    "models",
    "chunks",
    "model_chunks",
    "checkpoints",
    "checkpoint_chunks",
)


def jobs_with(status: str | None = None, tenant: str | None = None) -> str:
    """The index of all jobs, or of those of one status, one tenant, or both."""
    index = f"drmad:tenant:{tenant}:jobs" if tenant else JOBS
    return f"{index}:{status}" if status else index


def archived_jobs(status: str, tenant: str | None = None) -> str:
    """The index of the archived jobs of one status; of one tenant, or of all."""
    return jobs_with(f"archived:{status}", tenant)


def idempotency(tenant: str, key: str) -> str:
    return f"drmad:idempotency:{tenant}:{key}"


def code(sha256: str) -> str:
    return f"drmad:code:{sha256}"


def key(key_id: str) -> str:
    return f"drmad:key:{key_id}"


def bucket(key_id: str) -> str:
    return f"drmad:bucket:{key_id}"


def code_tenants(sha256: str) -> str:
    return f"drmad:code:{sha256}:tenants"


def worker_requests(kind: str, tenant: str = "") -> str:
    """The tenants with requests of a kind, or the queue of one tenant."""
    return f"{REQUESTS}{kind}:{tenant}" if tenant else f"{REQUESTS}{kind}"


def worker_request(kind: str, request_id: str, part: str = "") -> str:
    return f"{REQUEST}{kind}:{request_id}:{part}" if part else f"{REQUEST}{kind}:{request_id}"


def examples(job_id: str) -> str:
    return f"drmad:examples:{job_id}"


def recipe_data(job_id: str) -> str:
    return f"drmad:recipe:{job_id}"


def open_uploads(tenant: str) -> str:
    return f"drmad:uploads:{tenant}"


def data_tenants(sha256: str) -> str:
    return f"{DATA}:{sha256}:tenants"


def session(token_digest: str) -> str:
    return f"drmad:session:{token_digest}"


def ticket(ticket_digest: str) -> str:
    return f"drmad:ticket:{ticket_digest}"


def job(job_id: str, part: str | None = None) -> str:
    return f"drmad:job:{job_id}:{part}" if part else f"drmad:job:{job_id}"
