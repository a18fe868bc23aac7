"""Models that another library divides are refused by name."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from drmad_workers import Problem, ProblemError

DATA = torch.zeros(4, 3), torch.zeros(4, dtype=torch.int64)


@pytest.fixture
def group(tmp_path: Path) -> Iterator[None]:
    distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1
    )
    yield
    distributed.destroy_process_group()


def test_wrappers_are_refused_by_name(group: None) -> None:
    inner = nn.Linear(3, 2)
    with pytest.raises(ProblemError, match="got DataParallel at its root: hand over the module"):
        Problem(nn.DataParallel(inner), DATA, DATA)
    with pytest.raises(ProblemError, match="got DistributedDataParallel at 1: hand over"):
        Problem(nn.Sequential(nn.Identity(), DistributedDataParallel(inner)), DATA, DATA)


def test_sharded_weights_are_refused_by_name(group: None) -> None:
    model = nn.Sequential(nn.Linear(3, 2))
    fully_shard(model, mesh=init_device_mesh("cpu", (1,)))
    with pytest.raises(ProblemError, match=r"got the sharded tensor 0\.weight") as error:
        Problem(model, DATA, DATA)
    assert error.value.field == "model"
