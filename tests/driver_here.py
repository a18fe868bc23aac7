"""Drives Ray in the test's own process, so that it sees what actors keep between them."""

from __future__ import annotations

from typing import Any

import ray
from ray.util.placement_group import placement_group, remove_placement_group

from drmad_service.ray_driver.session import actor_class, strategy_of


class ReservationHere:
    """A placement group of Ray."""

    def __init__(self, bundles: Any, strategy: str, nodes: list[str]) -> None:
        selectors = [{"ray.io/node-id": node} for node in nodes]
        self.group = placement_group(bundles, strategy, bundle_label_selector=selectors)
        self.ready = self.group.ready()


class DriverHere:
    """Drives Ray in this process: actors and references are Ray's own."""

    put = staticmethod(ray.put)
    kill = staticmethod(ray.kill)
    reserve = ReservationHere

    def remove(self, reservation: ReservationHere) -> None:
        remove_placement_group(reservation.group)

    def create(self, kind: str, options: Any, place: Any, *arguments: Any) -> Any:
        where, held, *index = place
        held = held.group if isinstance(held, ReservationHere) else held
        strategy = strategy_of(where, held, *index)
        return actor_class(kind).options(**options, scheduling_strategy=strategy).remote(*arguments)
