"""The store: the state of every job in Redis, changed only by atomic Lua scripts.

Large values (states, hypergradients, models) are split into chunks that are named by their digest.
The chunks are written before the script that names them, so a reader never sees an incomplete
value.

    keys.py           every key, its type and its expiry
    state_machine.py  the states of a job and the allowed transitions
    scripts.py, lua/  the scripts, which alone write a job's state
    schema.py         the version of the layout; migrations.py brings older data to it
    base.py           reads a job; runs a transition or an update
    job_requests.py   requests of clients: create, list, pause, resume, cancel, extend, fork, delete
    uploads.py        code and data that clients upload
    preflights.py     preflights of jobs that are not created
    placement.py      the capacity by node, and why it does not hold a job
    leases.py         requests of schedulers: claim, renew, report, warn, log
    commits.py        meta-iterations, and the states between them
    confirmations.py  the confirmation of a job's result
    trials.py         trials of a job's search
    side_runs.py      runs beside a job: requested, taken, held, ended
    validations.py    validations of a job's hypergradient
    retrainings.py    retrainings with a job's hyperparameters
    job_results.py    history, vectors, models and fidelity of a job
    events.py         events and log lines
    notices.py        notices of ended jobs, for webhooks
    overview.py       reads over many jobs, for pages

`Store` (store.py) inherits its parts. Each part is a `Base`, adds methods of one subject and keeps
no state of its own, so the parts cannot interfere, and a caller holds one object.
"""

from drmad_service.store.jobs.placement import Capacity, NodeCapacity
from drmad_service.store.layout.types import (
    Lease,
    MetaIterationCommit,
    ResumePoint,
    StoreSettings,
)
from drmad_service.store.store import Store

__all__ = [
    "Capacity",
    "Lease",
    "MetaIterationCommit",
    "NodeCapacity",
    "ResumePoint",
    "Store",
    "StoreSettings",
]
