"""The OpenAPI document as a page: no script of another host runs beside somebody's session."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class ReferenceCall:
    method: str
    path: str
    description: str
    parameters: list[dict[str, Any]]
    takes_body: str  # a name for it; "" when there is none
    answers: list[str]


def calls(document: Mapping[str, Any]) -> dict[str, list[ReferenceCall]]:
    """Every call, by the resource that it belongs to."""
    groups: dict[str, list[ReferenceCall]] = {}
    for path, methods in document["paths"].items():
        for method, told in methods.items():
            call = ReferenceCall(
                method=method.upper(),
                path=path,
                description=told.get("description") or told.get("summary", ""),
                parameters=told.get("parameters", []),
                takes_body=_body(told.get("requestBody", {}).get("content", {})),
                answers=list(told["responses"]),
            )
            groups.setdefault(told.get("tags", ["others"])[0], []).append(call)
    return groups


def _body(content: Mapping[str, Any]) -> str:
    for media_type, described in content.items():
        reference: str = described.get("schema", {}).get("$ref", "")
        return reference.rpartition("/")[2] or media_type
    return ""
