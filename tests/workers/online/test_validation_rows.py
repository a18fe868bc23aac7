"""Windows differentiate the loss of their own validation rows, which their number determines."""

from dataclasses import replace

import pytest
import torch

from drmad_workers import MetaConfig, Problem, ProblemError
from drmad_workers.data.examples import Examples
from drmad_workers.online.validation_rows import ValidationRows
from tests.workers.online.test_outer_loop import ONLINE, STILL, tuned
from tests.workers.online.test_run import ADAM, SGD, drawn, plain_model

STREAM = (3, 0, 0)


def examples(rows: int = 11) -> Examples:
    return Examples(torch.arange(float(rows)), "valid", torch.device("cpu"), torch.float64)


def rows_of(part: Examples) -> list[int]:
    return part.chunk(0, part.rows).index.tolist()


def test_an_epoch_of_windows_has_every_row_at_most_once_and_its_own_order() -> None:
    drawn_rows = ValidationRows(examples(), 3)
    windows = [rows_of(drawn_rows.of(number, STREAM)) for number in range(6)]
    for epoch in (windows[:3], windows[3:]):
        assert len({row for rows in epoch for row in rows}) == 9
    assert windows[:3] != windows[3:]
    again = ValidationRows(examples(), 3)
    assert [rows_of(again.of(number, STREAM)) for number in (4, 1)] == [windows[4], windows[1]]
    assert rows_of(again.of(1, (3, 1, 0))) != windows[1]


def test_rows_of_a_shard_are_those_of_the_shard() -> None:
    held = torch.tensor([1, 4, 6, 9])
    shard = ValidationRows(examples().part(held), 2)
    found = [row for number in range(2) for row in rows_of(shard.of(number, STREAM))]
    assert sorted(found) == held.tolist()


def test_a_window_differentiates_the_loss_of_its_rows_alone() -> None:
    """The judge is a problem that has no other validation rows."""
    meta: MetaConfig = replace(STILL, validation_batch=3)
    training = replace(SGD, steps=8)
    whole: Problem = drawn(plain_model)()
    found = tuned(whole, training, meta)
    assert isinstance(whole.valid, tuple)
    x, y = whole.valid
    rows = ValidationRows(Examples((x, y), "valid", torch.device("cpu"), torch.float64), 3)
    for number, evaluation in enumerate(found.evaluations):
        own = rows_of(rows.of(number, (0, 0, 0)))
        part = drawn(plain_model)()
        part.valid = (x[own], y[own])
        expected = tuned(part, training, STILL).evaluations[number]
        assert evaluation.validation_loss == pytest.approx(expected.validation_loss, rel=1e-12)
        one, other = (e.hypergradient["sample_weight"] for e in (evaluation, expected))
        assert torch.allclose(one, other, rtol=1e-10, atol=1e-14)


def test_a_continued_run_takes_the_same_rows() -> None:
    meta = replace(ONLINE, validation_batch=4)
    problem = drawn(plain_model)()
    whole = tuned(problem, replace(ADAM, steps=24), meta)
    part = tuned(problem, replace(ADAM, steps=12), meta)
    rest = tuned(
        problem, replace(ADAM, steps=24), meta, state=part.state, training_state=part.training
    )
    losses = [each.validation_loss for each in (*part.evaluations, *rest.evaluations)]
    assert losses == [each.validation_loss for each in whole.evaluations]
    assert whole.state is not None
    assert whole.state.runs == pytest.approx(3.0 + 6 * 4 / 4 / 24)


def test_more_rows_than_there_are_is_refused() -> None:
    with pytest.raises(ProblemError, match="at most the 9 validation rows") as caught:
        tuned(drawn(plain_model)(), SGD, replace(ONLINE, validation_batch=10))
    assert caught.value.field == "meta.validation_batch"
