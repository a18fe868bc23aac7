"""The store, which combines its parts into one object."""

from __future__ import annotations

from drmad_service.store.access.notices import Notices
from drmad_service.store.audit import Audit
from drmad_service.store.cluster_use import ClusterUse
from drmad_service.store.files.uploads import Uploads
from drmad_service.store.jobs.commits import Commits
from drmad_service.store.jobs.confirmations import Confirmations
from drmad_service.store.jobs.events import Events
from drmad_service.store.jobs.job_requests import JobRequests
from drmad_service.store.jobs.job_results import JobResults
from drmad_service.store.jobs.labels import Labels
from drmad_service.store.jobs.leases import Leases
from drmad_service.store.jobs.trials import Trials
from drmad_service.store.side_runs.attributions import Attributions
from drmad_service.store.side_runs.examples import TrainingExamples
from drmad_service.store.side_runs.preflights import Preflights
from drmad_service.store.side_runs.recipe_data import RecipeData
from drmad_service.store.side_runs.retrainings import Retrainings
from drmad_service.store.side_runs.validations import Validations
from drmad_service.store.usage import TenantUses


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
    RecipeData,
    Notices,
    Audit,
    TenantUses,
    ClusterUse,
):
    """Jobs in Redis. A process has one instance, whose Redis client returns bytes."""
