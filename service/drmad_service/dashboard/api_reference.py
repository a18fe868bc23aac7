"""Groups the operations of the OpenAPI document for the API page.

We render the page ourselves, so that no third-party script runs in the session of a user.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class ReferenceCall:
    """One operation. `takes_body` names the schema of the request body, or is empty."""

    method: str
    path: str
    description: str
    parameters: list[dict[str, Any]]
    takes_body: str
    statuses: list[str]
    curl: str


def calls(document: Mapping[str, Any]) -> dict[str, list[ReferenceCall]]:
    """Returns the operations by tag, in the order of the document."""
    groups: dict[str, list[ReferenceCall]] = {}
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            call = ReferenceCall(
                method=method.upper(),
                path=path,
                description=operation.get("description") or operation.get("summary", ""),
                parameters=operation.get("parameters", []),
                takes_body=_body(operation.get("requestBody", {}).get("content", {})),
                statuses=list(operation["responses"]),
                curl=next((s["source"] for s in operation.get("x-codeSamples", [])), ""),
            )
            groups.setdefault(operation.get("tags", ["other"])[0], []).append(call)
    return groups


def _body(content: Mapping[str, Any]) -> str:
    for media_type, described in content.items():
        reference: str = described.get("schema", {}).get("$ref", "")
        return reference.rpartition("/")[2] or media_type
    return ""
