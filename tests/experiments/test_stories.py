"""The stories: their pages show the results, and a plain loop agrees with the engine."""

from __future__ import annotations

from pathlib import Path

import pytest
from experiments.results import Results
from experiments.stories.experiment import (
    FOLDER,
    PAGES,
    STORIES,
    Story,
    budget,
    is_alike,
    stated,
    story_report,
)


@pytest.fixture(scope="module")
def results() -> Results:
    return Results(FOLDER)


@pytest.mark.parametrize("story", STORIES, ids=lambda story: story.case)
def test_a_page_shows_the_results(story: Story, results: Results) -> None:
    page = (PAGES / f"{story.case}.md").read_text(encoding="utf-8")
    assert story_report(results, story) in page
    assert story_report(results, story) in (FOLDER / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("story", STORIES, ids=lambda story: story.case)
def test_three_seeds_of_every_arm_are_judged_by_runs_that_did_not_choose(
    story: Story, results: Results
) -> None:
    for arm in ("untuned", "random", "drmad"):
        judged = results.of(story.case, f"{arm}, again")
        assert [run.seed for run in judged] == [0, 1, 2]
        assert {len(run.metrics[story.metric]) for run in judged} == {5}


@pytest.mark.parametrize("arm", ["untuned", "drmad"])
@pytest.mark.parametrize("story", STORIES, ids=lambda story: story.case)
def test_the_plain_loop_reached_the_figures_of_the_engine(
    story: Story, arm: str, results: Results
) -> None:
    """Under the same draws to 1e-6; under its own in at least two of three seeds."""
    plain = results.of(story.case, f"{arm}, plain")
    assert [run.seed for run in plain] == [0, 1, 2]
    for run in plain:
        assert max(run.figures["difference"].values()) < 1e-6
    engine = results.of(story.case, f"{arm}, again")
    alike = [
        is_alike(one.metrics[story.metric], other.metrics[story.metric])
        for one, other in zip(plain, engine, strict=True)
    ]
    assert sum(alike) >= 2


@pytest.mark.parametrize("story", STORIES, ids=lambda story: story.case)
def test_a_search_has_the_budget_of_the_job(
    story: Story, results: Results, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # the template is written below build/
    trials = budget(stated(story, 0, quick=False))
    assert {run.cost for run in results.of(story.case, "random")} == {trials}
    assert [run.cost for run in results.of(story.case, "drmad")] == pytest.approx(
        [trials] * 3, 0.02
    )
