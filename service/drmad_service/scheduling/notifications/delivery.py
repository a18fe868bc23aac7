"""The outcome of one attempt to notify, and the rule by which names are allowed."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass


@dataclass(frozen=True)
class DeliveryOutcome:
    """The outcome of one attempt."""

    delivered: bool
    message: str
    worth_retrying: bool = False


def is_listed(host: str, listed: Collection[str]) -> bool:
    """Whether a host is listed, by its name or by *.example.com for every host below that."""
    host = host.lower().rstrip(".")
    return any(
        host.endswith(name[1:].lower()) if name.startswith("*.") else host == name.lower()
        for name in listed
    )
