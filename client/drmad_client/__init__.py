"""drmad: tune thousands of hyperparameters of a PyTorch model by gradient, as a service."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from drmad_client.api import Client
    from drmad_client.async_api import AsyncClient
    from drmad_client.jobs import AsyncJob, Job
    from drmad_client.specs import JobSpec

__all__ = ["AsyncClient", "AsyncJob", "Client", "Job", "JobSpec", "__version__"]
__version__ = "0.1.0.dev0"

_HOMES = {
    "AsyncClient": "async_api",
    "Client": "api",
    "AsyncJob": "jobs",
    "Job": "jobs",
    "JobSpec": "specs",
}


def __getattr__(name: str) -> Any:
    # Loaded when asked for, so that the command line stays quick.
    from importlib import import_module

    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
