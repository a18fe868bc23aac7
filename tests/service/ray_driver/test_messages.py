"""The scheduler knows what the workers' methods return without importing them."""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any

from drmad_service.ray_driver.codec import MESSAGES
from drmad_service.ray_driver.session import actor_class
from drmad_workers.ray_actor import messages

BETWEEN_WORKERS = {"ReplicaResult"}
"""What never reaches the scheduler."""
OF_ARTIFACTS = {"Artifact", "ArtifactLocation", "JobArtifacts"}
"""Where a job's files lie, which the scheduler tells the workers, and what they wrote there."""
CLASSES = ("Replica", "RetrainingWorker", "Validator")


def test_every_message_of_the_workers_may_be_sent() -> None:
    defined = {
        name
        for name, found in vars(messages).items()
        if dataclasses.is_dataclass(found) and inspect.getmodule(found) is messages
    }
    assert set(MESSAGES) == (defined - BETWEEN_WORKERS) | OF_ARTIFACTS


def test_methods_with_two_results_are_those_of_the_actors() -> None:
    found = set[str]()
    for kind in CLASSES:
        methods: Any = vars(actor_class(kind).__ray_metadata__.modified_class)
        found |= {
            name
            for name, method in methods.items()
            if getattr(method, "__ray_num_returns__", 1) == 2
        }
    assert found == messages.TWO_RESULTS
