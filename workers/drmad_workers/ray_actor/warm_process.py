"""What a worker process that waits for a job has imported: torch, the engine, what both load late.

Ray imports this module in the processes that it starts (RAY_preload_python_modules). Nothing here
draws random numbers or touches a GPU.
"""

from __future__ import annotations

import torch.fx.experimental.proxy_tensor

from drmad_workers import replica_batch, spec_adapter
from drmad_workers.preflight import short_run
from drmad_workers.ray_actor import outer_step

__all__ = ["outer_step", "replica_batch", "short_run", "spec_adapter", "torch"]
