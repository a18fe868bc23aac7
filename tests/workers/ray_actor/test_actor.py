from __future__ import annotations

import math
import multiprocessing
import resource
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from drmad_workers import spec_adapter
from drmad_workers.errors import ProblemError, TrainingDiverged
from drmad_workers.ray_actor import failures
from drmad_workers.ray_actor.memory_limit import limit_memory
from drmad_workers.ray_actor.messages import Failure


def test_error_in_code_that_is_not_ours_shows_its_own_frames_alone(tmp_path: Path) -> None:
    file = tmp_path / "their_problem.py"
    file.write_text("import numpy as np\ndef build():\n    return np.ones(2) @ np.ones(3)\n")
    scope: dict[str, object] = {}
    exec(compile(file.read_text(), str(file), "exec"), scope)
    build = scope["build"]
    assert callable(build)
    failure = failures.guarded(build, None)
    assert isinstance(failure, Failure)
    assert failure.code == "worker_error"
    assert failure.traceback is not None
    assert failure.message.startswith("ValueError: ")
    assert failure.traceback.count('File "') == 1
    assert f'File "{file}", line 3, in build' in failure.traceback
    assert failure.traceback.rstrip().splitlines()[-1] == failure.message


def test_error_of_ours_shows_where_it_arose_but_not_the_wrapper() -> None:
    failure = failures.guarded(partial(spec_adapter.kind, None), 3)  # type: ignore[arg-type]
    assert isinstance(failure, Failure)
    assert failure.iteration == 3
    assert failure.traceback is not None
    assert "in kind" in failure.traceback
    assert "in guarded" not in failure.traceback


def test_divergence_is_a_result_with_its_step() -> None:
    def diverge() -> None:
        raise TrainingDiverged(7, 10, math.nan, "loss")

    failure = failures.guarded(diverge, 2)
    assert isinstance(failure, Failure)
    assert (failure.code, failure.iteration, failure.step) == ("training_diverged", 2, 7)


def _raises(error: Exception) -> None:
    raise error


@pytest.mark.parametrize(
    "allocation",
    [
        pytest.param(lambda: torch.empty(2**50), id="torch on the CPU"),
        pytest.param(lambda: np.empty(2**50), id="NumPy"),
        pytest.param(lambda: bytearray(2**50), id="Python"),
        pytest.param(
            lambda: _raises(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")),
            id="torch on a GPU",
        ),
        pytest.param(lambda: _raises(RuntimeError("CUDA error: out of memory")), id="CUDA itself"),
    ],
)
def test_lack_of_memory_is_told_from_other_errors_and_says_what_needs_less(
    allocation: Callable[[], None],
) -> None:
    failure = failures.guarded(allocation, 2)
    assert isinstance(failure, Failure)
    assert (failure.code, failure.iteration) == (failures.OUT_OF_MEMORY, 2)
    assert "a smaller training.batch_size" in failure.message


def _limited() -> Failure | None:
    """Allocates in a process that may have 200 MB more than it has."""
    held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (held + 200_000_000, resource.RLIM_INFINITY))
    torch.set_num_threads(1)  # threads need memory too
    batches = [torch.empty(0)]

    def allocate() -> None:
        while True:
            batches.append(torch.ones(10_000_000))

    failure = failures.guarded(allocate, 0)
    batches.clear()
    return failure


def test_process_at_its_memory_limit_says_so_itself() -> None:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        failure = pool.apply(_limited)
    assert failure is not None
    assert failure.code == failures.OUT_OF_MEMORY
    assert "can't allocate memory" in failure.message


def test_a_limit_below_what_a_worker_itself_takes_is_refused_by_name() -> None:
    before = resource.getrlimit(resource.RLIMIT_DATA)
    with pytest.raises(ProblemError, match=r"resources\.memory_bytes must be at least") as caught:
        limit_memory(1 << 20)
    assert caught.value.field == "resources.memory_bytes"
    assert resource.getrlimit(resource.RLIMIT_DATA) == before
