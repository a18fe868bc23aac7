"""Traces are taken at once, so that the short trainings of the cases run through them."""

import pytest

from drmad_workers.objective.autograd import traces


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(traces, "FIRST_TRACED", 1)
