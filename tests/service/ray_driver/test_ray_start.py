"""A local Ray on a busy machine has more time to start than Ray itself gives it."""

from __future__ import annotations

from typing import Any

import pytest
from ray._private import services

from drmad_service.ray_driver.ray_start import give_node_time


def test_a_node_that_appears_late_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    answers: list[Any] = [RuntimeError("not yet"), RuntimeError("not yet"), {"node_id": "1"}]

    def ask(address: str, node: str) -> Any:
        assert (address, node) == ("gcs", "1")
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(services, "get_node", ask)
    give_node_time(60.0, 0.0)
    waits: Any = services.get_node
    assert waits("gcs", "1") == {"node_id": "1"}
    assert answers == []


def test_a_node_that_never_appears_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def ask() -> Any:
        raise RuntimeError("no node with this id")

    monkeypatch.setattr(services, "get_node", ask)
    give_node_time(-1.0)
    waits: Any = services.get_node
    with pytest.raises(RuntimeError, match="no node with this id"):
        waits()
