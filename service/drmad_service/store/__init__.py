"""The store: every state of every job, in Redis, changed by atomic scripts alone.

Large values (states, hypergradients, models) are cut into chunks named by their content and
written before the script that mentions them, so a reader never sees half of one.

    base.py       a job as it is, the one way to change it
    jobs.py       what clients do
    code.py       what they upload, and how long it is of use
    checks.py     what they ask before they submit
    results.py    what a job has found
    trials.py     what its search has tried
    events.py     what happened to it, and what it printed
    driving.py    what schedulers do
    notices.py    who is told of its end
    commits.py    the meta-iterations, and the states between them
"""

from drmad_service.store.store import Store
from drmad_service.store.types import (
    Capacity,
    Lease,
    MetaIterationCommit,
    ResumePoint,
    StoreSettings,
)

__all__ = [
    "Capacity",
    "Lease",
    "MetaIterationCommit",
    "ResumePoint",
    "Store",
    "StoreSettings",
]
