"""Every Redis key of drmad, and nowhere else.

    key                            type    holds, and until when
    drmad:schema                   string  version of this layout; <from>-<to> while it is migrated
    drmad:schema:lock              string  who migrates it; half a minute
    drmad:jobs                     zset    every job id, score 0: in the order of creation
    drmad:jobs:<status>            zset    the job ids of one status, likewise
    drmad:tenant:<tenant>:jobs     zset    every job id of a tenant, likewise
    drmad:tenant:<tenant>:jobs:<status>  zset  the same of one status
    drmad:queue                    zset    runnable job ids; score: creation in ms, less a bonus for
                                           priority, so that age always wins in the end
    drmad:ended                    zset    terminal job ids; score: when they ended in ms
    drmad:leases                   zset    driven job ids; score: expiry in ms on Redis's clock
    drmad:reservations             hash    driven job id -> "<cpus> <gpus> <tenant>", reserved
    drmad:cluster                  hash    scheduler id -> what its Ray cluster has (JSON)
    drmad:nodes                    hash    scheduler id -> the machines that it sees (JSON)
    drmad:idempotency:<tenant>:<key>  string  "<job id> <sha256 of the body>", a day
    drmad:keys                     zset    ids of the keys that open the service; score:
                                           creation in ms
    drmad:key:<id>                 hash    digest (sha256), tenant, scope, note, created_at, used_at
    drmad:bucket:<id>              hash    how many requests a key has left, and since when; until
                                           it is full again
    drmad:session:<sha256>         string  "<id> <sha256>" of the key that opened it; 30 days
    drmad:ticket:<sha256>          string  that a sign-in link was used; as long as it is valid
    drmad:code:<sha256>            hash    number -> a megabyte of an archive of user code
    drmad:code:<sha256>:tenants    set     who uploaded it, and may name it
    drmad:codes                    zset    sha256 of every archive; score: last use in ms
    drmad:data                     zset    sha256 of every uploaded data set, which is a file;
                                           score: last use in ms
    drmad:data:<sha256>:tenants    set     who uploaded it, and may name it
    drmad:notices                  zset    ended jobs whose webhook is to be told; score:
                                           when, in ms
    drmad:counters                 hash    what happened -> how often, or seconds; see metrics.py
    drmad:preflights               list    ids of preflights that no scheduler has taken
    drmad:preflight:<id>           string  the spec to try (JSON); ten minutes
    drmad:preflight:<id>:answer    string  what a worker found (JSON); ten minutes
    drmad:changes                  channel a job id whenever something of the job changed
    drmad:job:<id>                 hash    spec, status, fence, progress, ...: the job itself
    drmad:job:<id>:transitions     list    its last states (JSON)
    drmad:job:<id>:events          stream  its last events: type, at, data (JSON)
    drmad:job:<id>:history         stream  every MetaIteration (JSON); the entry <iteration>-1,
                                           which Redis refuses to add twice
    drmad:job:<id>:trials          hash    number -> a Trial of its search (JSON)
    drmad:job:<id>:logs            stream  the last lines of its replicas: replica, text
    drmad:job:<id>:state           string  where the job resumes (JSON, names chunks)
    drmad:job:<id>:vectors         hash    iteration -> chunks of its state and hypergradient (JSON)
    drmad:job:<id>:models          hash    best, last -> iteration and chunks of the model (JSON)
    drmad:job:<id>:chunks          hash    sha256 -> up to a megabyte of a state or hypergradient
    drmad:job:<id>:model_chunks    hash    the same of a model

Whatever belongs to a job starts with its job key and goes when the job is deleted.
"""

from __future__ import annotations

SCHEMA = "drmad:schema"
SCHEMA_LOCK = "drmad:schema:lock"
JOBS = "drmad:jobs"
QUEUE = "drmad:queue"
ENDED = "drmad:ended"
LEASES = "drmad:leases"
RESERVATIONS = "drmad:reservations"
CLUSTER = "drmad:cluster"
NODES = "drmad:nodes"
CHANGES = "drmad:changes"
CODES = "drmad:codes"
KEYS = "drmad:keys"
DATA = "drmad:data"
NOTICES = "drmad:notices"
PREFLIGHTS = "drmad:preflights"
COUNTERS = "drmad:counters"
PARTS = (
    "transitions",
    "events",
    "history",
    "trials",
    "logs",
    "state",
    "vectors",
    "models",
    "chunks",
    "model_chunks",
)


def jobs_with(status: str | None = None, tenant: str | None = None) -> str:
    """The index of all jobs, or of those of one status, one tenant, or both."""
    index = f"drmad:tenant:{tenant}:jobs" if tenant else JOBS
    return f"{index}:{status}" if status else index


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


def preflight(preflight_id: str, part: str | None = None) -> str:
    return f"drmad:preflight:{preflight_id}:{part}" if part else f"drmad:preflight:{preflight_id}"


def data_tenants(sha256: str) -> str:
    return f"{DATA}:{sha256}:tenants"


def session(token_digest: str) -> str:
    return f"drmad:session:{token_digest}"


def ticket(ticket_digest: str) -> str:
    return f"drmad:ticket:{ticket_digest}"


def job(job_id: str, part: str | None = None) -> str:
    return f"drmad:job:{job_id}:{part}" if part else f"drmad:job:{job_id}"
