"""The store: all its parts as one."""

from __future__ import annotations

from drmad_service.store.checks import Checks
from drmad_service.store.code import Code
from drmad_service.store.commits import Commits
from drmad_service.store.driving import Driving
from drmad_service.store.events import Events
from drmad_service.store.jobs import Jobs
from drmad_service.store.notices import Notices
from drmad_service.store.results import Results
from drmad_service.store.trials import Trials


class Store(Jobs, Code, Checks, Results, Trials, Events, Driving, Commits, Notices):
    """Jobs in Redis. One instance a process; the client must return bytes."""
