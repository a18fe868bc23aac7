"""The store, which combines its parts into one object."""

from __future__ import annotations

from drmad_service.store.attributions import Attributions
from drmad_service.store.audit import Audit
from drmad_service.store.commits import Commits
from drmad_service.store.confirmations import Confirmations
from drmad_service.store.events import Events
from drmad_service.store.examples import TrainingExamples
from drmad_service.store.job_requests import JobRequests
from drmad_service.store.job_results import JobResults
from drmad_service.store.labels import Labels
from drmad_service.store.leases import Leases
from drmad_service.store.notices import Notices
from drmad_service.store.preflights import Preflights
from drmad_service.store.retrainings import Retrainings
from drmad_service.store.trials import Trials
from drmad_service.store.uploads import Uploads
from drmad_service.store.usage import TenantUses
from drmad_service.store.validations import Validations


class Store(
    JobRequests,
    Labels,
    Uploads,
    Preflights,
    JobResults,
    Trials,
    Validations,
    Retrainings,
    Events,
    Leases,
    Commits,
    Confirmations,
    Attributions,
    TrainingExamples,
    Notices,
    Audit,
    TenantUses,
):
    """Jobs in Redis. A process has one instance, whose Redis client returns bytes."""
