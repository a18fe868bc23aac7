"""examples/table: its file is what its script writes, and its job finds the mixed-up clinic."""

import runpy
from pathlib import Path

import pandas as pd

from drmad_client.spec.job import JobSpec
from drmad_client.spec.text import job_file
from drmad_workers import spec_adapter, tune
from drmad_workers.catalog import Places

FOLDER = Path(__file__).parents[3] / "examples" / "table"


def test_the_file_is_what_the_script_writes() -> None:
    table = runpy.run_path(str(FOLDER / "make_table.py"))["table"]
    pd.testing.assert_frame_equal(pd.read_csv(FOLDER / "diabetes.csv"), table(), check_dtype=False)


def test_the_mixed_up_clinic_loses_weight() -> None:
    spec = JobSpec.model_validate(job_file.read(FOLDER / "job.yaml"))
    problem = spec_adapter.problem(spec, Places([FOLDER]), None)
    result = tune(
        problem,
        [spec_adapter.kind(hyperparameter) for hyperparameter in spec.hyperparameters],
        spec_adapter.training(spec),
        spec_adapter.method(spec.hypergradient),
        spec_adapter.meta(spec),
    )
    harbour, hill, station = result.best["sample_weight"].sigmoid().tolist()
    assert harbour < 0.5 * min(hill, station)
    first, best = result.evaluations[0], min(result.evaluations, key=lambda e: e.validation_loss)
    assert best.metrics["test_rmse"] < first.metrics["test_rmse"]
    assert set(best.metrics) >= {"validation_rmse", "test_mae", "test_r2"}
