from .http.async_client import AsyncClient as AsyncClient
from .http.async_job_handle import AsyncJob as AsyncJob
from .http.client import Client as Client
from .http.job_handle import Job as Job
from .packing.build_function import pack as pack
from .spec.job import JobSpec as JobSpec

__version__: str
