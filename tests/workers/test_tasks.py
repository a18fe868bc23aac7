from __future__ import annotations

import math
from functools import partial
from pathlib import Path

from drmad_workers import tasks, wire
from drmad_workers.errors import TrainingDiverged


def test_error_in_code_that_is_not_ours_shows_its_own_frames_alone(tmp_path: Path) -> None:
    file = tmp_path / "their_problem.py"
    file.write_text("import numpy as np\ndef build():\n    return np.ones(2) @ np.ones(3)\n")
    scope: dict[str, object] = {}
    exec(compile(file.read_text(), str(file), "exec"), scope)
    build = scope["build"]
    assert callable(build)
    failure = tasks._guarded(build, None)
    assert isinstance(failure, tasks.Failure)
    assert failure.code == "worker_error"
    assert failure.traceback is not None
    assert failure.message.startswith("ValueError: ")
    assert failure.traceback.count('File "') == 1
    assert f'File "{file}", line 3, in build' in failure.traceback
    assert failure.traceback.rstrip().splitlines()[-1] == failure.message


def test_error_of_ours_shows_where_it_arose_but_not_the_wrapper() -> None:
    failure = tasks._guarded(partial(wire.kind, None), 3)  # type: ignore[arg-type]
    assert isinstance(failure, tasks.Failure)
    assert failure.iteration == 3
    assert failure.traceback is not None
    assert "in kind" in failure.traceback
    assert "_guarded" not in failure.traceback


def test_divergence_is_a_result_with_its_step() -> None:
    def diverge() -> None:
        raise TrainingDiverged(7, 10, math.nan, "loss")

    failure = tasks._guarded(diverge, 2)
    assert isinstance(failure, tasks.Failure)
    assert (failure.code, failure.iteration, failure.step) == ("training_diverged", 2, 7)
