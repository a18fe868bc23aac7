"""The OpenAPI document: a curl line for every operation, and no default that generators refuse."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI

_JOB = {
    "name": "digits",
    "problem": {"data": {"name": "digits"}},
    "hyperparameters": [{"kind": "l2", "per": "unit"}],
}
BODIES: dict[tuple[str, str], Mapping[str, Any]] = {
    ("post", "/v1/jobs"): _JOB,
    ("patch", "/v1/jobs/{job_id}"): {"note": "the run of the report", "tags": {"team": "vision"}},
    ("post", "/v1/jobs/{job_id}/extend"): {"iterations": 10},
    ("post", "/v1/jobs/{job_id}/fork"): {"iteration": 0},
    ("post", "/v1/jobs/{job_id}/validations"): {},
    ("post", "/v1/jobs/{job_id}/retrainings"): {},
    ("put", "/v1/limits/{tenant}"): {"queued_jobs": 20, "gpus": 4},
}
"""An example of each JSON body, which curl lines send."""
FILES = {
    "/v1/code/{sha256}": "code.zip",
    "/v1/data/{sha256}": "data.npz",
    "/v1/data/{sha256}/parts": "data.npz",
}


def install(app: FastAPI) -> None:
    """Makes the application answer with this document."""
    plain = app.openapi

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            made = plain()
            _without_object_defaults(made)
            for path, operations in made["paths"].items():
                for method, operation in operations.items():
                    line = curl_line(method, path, operation)
                    sample = {"lang": "Shell", "label": "curl", "source": line}
                    operation["x-codeSamples"] = [sample]
            app.openapi_schema = made
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]


def curl_line(method: str, path: str, operation: Mapping[str, Any]) -> str:
    """A curl command with the header of the key; $DRMAD_URL, $JOB and others stand in it."""
    words = ["curl"]
    if method == "head":
        words.append("--head")
    elif method != "get":
        words += ["-X", method.upper()]
    words.append(f'"$DRMAD_URL{_with_variables(path)}{_required_query(operation)}"')
    if "security" in operation:
        words.append('-H "Authorization: Bearer $DRMAD_API_KEY"')
    content = operation.get("requestBody", {}).get("content", {})
    if "application/json" in content:
        body = json.dumps(BODIES.get((method, path), {}))
        words += ['-H "Content-Type: application/json"', f"--data {shlex.quote(body)}"]
    elif content:
        media_type = next(iter(content))
        words += [f'-H "Content-Type: {media_type}"', f"--data-binary @{FILES.get(path, 'file')}"]
    return " ".join(words)


def _with_variables(path: str) -> str:
    """The path with a variable of the shell in each place, such as $JOB_ID."""
    return "".join(
        f"${part[1:-1].upper()}" if part.startswith("{") else part
        for part in path.replace("{", "\0{").replace("}", "}\0").split("\0")
    )


def _required_query(operation: Mapping[str, Any]) -> str:
    """The parameters that a request must have, each with the least value."""
    least = [
        f"{each['name']}={each['schema'].get('minimum', '')}"
        for each in operation.get("parameters", [])
        if each["in"] == "query" and each.get("required")
    ]
    return "?" + "&".join(least) if least else ""


def _without_object_defaults(node: Any) -> None:
    """Removes defaults that are objects: generators refuse the schemas that hold them."""
    if isinstance(node, list):
        for each in node:
            _without_object_defaults(each)
    elif isinstance(node, dict):
        if isinstance(node.get("default"), dict) and not isinstance(node.get("type"), dict):
            del node["default"]
        for each in node.values():
            _without_object_defaults(each)
