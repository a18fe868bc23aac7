"""The store: all its parts as one."""

from __future__ import annotations

from drmad_service.store.commits import Commits
from drmad_service.store.events import Events
from drmad_service.store.job_requests import Jobs
from drmad_service.store.job_results import Results
from drmad_service.store.leases import Driving
from drmad_service.store.notices import Notices
from drmad_service.store.preflights import Checks
from drmad_service.store.trials import Trials
from drmad_service.store.uploads import Code


class Store(Jobs, Code, Checks, Results, Trials, Events, Driving, Commits, Notices):
    """Jobs in Redis. One instance a process; the client must return bytes."""
