"""What stands in the tables is what the data say."""

from __future__ import annotations

from pathlib import Path

import pytest
from experiments import arms, summary
from experiments.__main__ import NAMES, ROOT, block
from experiments.reporting import mean_and_interval, with_block
from experiments.results import Result, Results
from experiments.tasks import Search, Tuned, changed


@pytest.mark.parametrize("name", NAMES)
def test_table_of_an_experiment_is_that_of_its_data(name: str) -> None:
    readme = (ROOT / name / "README.md").read_text()
    assert with_block(readme, block(name, ROOT / name)) == readme


def test_table_of_the_project_is_that_of_the_experiments_data() -> None:
    readme = (ROOT.parent / "README.md").read_text()
    assert with_block(readme, summary.block(ROOT), "experiments") == readme


def test_interval_is_students() -> None:
    mean, half = mean_and_interval([1.0, 2.0, 3.0, 4.0, 5.0])
    assert mean == 3.0
    assert half == pytest.approx(2.776 * (2.5 / 5) ** 0.5, rel=1e-3)


def test_method_that_changes_loses_the_options_of_the_old_one() -> None:
    spec = {"hypergradient": {"method": "shortcut", "horizon": 50}, "meta": {"iterations": 3}}
    other = changed(spec, hypergradient={"method": "replay"}, meta={"learning_rate": 0.1})
    assert other["hypergradient"] == {"method": "replay"}
    assert other["meta"] == {"iterations": 3, "learning_rate": 0.1}
    assert spec["hypergradient"] == {"method": "shortcut", "horizon": 50}


def test_key_of_a_task_depends_on_its_code_and_not_on_the_data_root(tmp_path: Path) -> None:
    def task(roots: list[str]) -> Tuned:
        problem = {"entrypoint": "own:build", "options": {"roots": roots, "width": 3}}
        return Tuned("case", "arm", 0, {"problem": problem}, tmp_path)

    (tmp_path / "own.py").write_text("a = 1")
    first = task(["here"]).key
    assert task(["there"]).key == first
    (tmp_path / "own.py").write_text("a = 2")
    assert task(["there"]).key != first


def test_result_of_a_task_replaces_the_older_one(tmp_path: Path) -> None:
    results = Results(tmp_path)
    for seed in range(2):
        results.add(Result("case", "arm", seed, "old", validation_loss=[2.0, 1.0]))
    results.add(Result("case", "arm", 0, "new", [3.0, 1.0], {"test_error": [0.5, float("nan")]}))
    again = Results(tmp_path)
    assert [(r.seed, r.key) for r in again.of("case", "arm")] == [(0, "new"), (1, "old")]
    search = Search("case", "arm", 0, {"problem": {}})
    assert not again.has(search)


def test_best_is_the_lowest_validation_loss_among_the_finite_ones() -> None:
    result = Result("case", "arm", 0, "", [float("nan"), 2.0, 1.0], {"test_error": [0.1, 0.2, 0.3]})
    assert result.at_best("test_error") == 0.3


def test_seconds_are_those_of_one_meta_iteration_on_a_quiet_core_times_their_number(
    tmp_path: Path,
) -> None:
    results = Results(tmp_path)
    for arm, seed, seconds in ((arms.TRAINING, 0, 0.5), ("job", 0, 2.0), ("job", 1, 1.5)):
        figures = {"peak_growth_bytes": 3 * 2**20}
        once = Result("case", arms.once(arm), seed, "", [1.0], figures=figures)
        once.seconds = {"total": seconds}
        results.add(once)
    results.add(Result("case", "job", 0, "", [3.0, 2.0], cost=6.0, methods=["shortcut"]))
    results.add(Result("case", "auto", 0, "", [3.0, 2.0], cost=6.0, methods=["replay"]))
    results.add(Result("case", "search", 0, "", [3.0, 2.0, 1.0], cost=3.0))
    results.add(Result("case", "wild", 0, "", error="the training diverged"))
    names = ("job", "auto", "search", "wild", "none")
    labels = dict(zip(names, ("a job", "a probe", "trials", "a fall", "not run"), strict=True))
    lines = arms.arms_table(results, "case", labels, arms.SPENT, {"auto": 4}).splitlines()
    assert lines[2:] == [
        "| a job | 1 | 6 | 3 | 3 |",
        "| a probe | 1 | 10 | 5 | – |",
        "| trials | 1 | 3 | 1.5 | 3 |",
        "| a fall | 1 failed | – | – | – |",
    ]
