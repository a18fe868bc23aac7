"""Refuses what a request holds beyond what its route reads: parameters, repeated keys, forms."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterator
from difflib import get_close_matches
from typing import Any, get_origin

from fastapi import Depends, Request, Response
from fastapi.dependencies.models import Dependant
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute

from drmad_client.spec.text import json_text
from drmad_service.errors import NotJson


class JsonRoute(APIRoute):
    """A route whose body is JSON that states its content type and holds every key once."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler = super().get_route_handler()

        async def handle(request: Request) -> Response:
            if self.body_field is not None:
                _must_state_json(request)
            return await handler(_JsonRequest(request.scope, request.receive))

        return handle


class _JsonRequest(Request):
    async def json(self) -> Any:
        """The body.

        Raises:
            json.JSONDecodeError: it is not JSON, or an object holds a key twice.
        """
        return json_text.load(await self.body())


def _must_state_json(request: Request) -> None:
    headers = request.headers
    if headers.get("content-length", "0") == "0" and "transfer-encoding" not in headers:
        return  # without a body the fields are missing, which the answer says
    stated = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if stated != "application/json" and not stated.endswith("+json"):
        raise NotJson(stated)


async def refuse_unknown_parameters(request: Request) -> None:
    """
    Raises:
        RequestValidationError: a query parameter is unknown, or one that takes one value is given
            twice.
    """
    takes = dict(_query_of(request.scope["route"].dependant))
    errors = []
    for name in dict.fromkeys(request.query_params):
        values = request.query_params.getlist(name)
        if name not in takes:
            near = get_close_matches(name, takes, n=1)
            known = (
                f"did you mean {near[0]}?" if near else f"known are {', '.join(takes) or 'none'}"
            )
            message = f"is not a parameter of {request.url.path}; {known}"
        elif len(values) > 1 and not takes[name]:
            message = f"must be given once, got it {len(values)} times"
        else:
            continue
        errors.append({"type": "misfit", "loc": ("query", name), "msg": message, "input": values})
    if errors:
        raise RequestValidationError(errors)


def _query_of(dependant: Dependant) -> Iterator[tuple[str, bool]]:
    """The query parameters of a route, and whether each may be repeated."""
    for field in dependant.query_params:
        yield field.alias, get_origin(field.field_info.annotation) is list
    for inner in dependant.dependencies:
        yield from _query_of(inner)


only_known_parameters = Depends(refuse_unknown_parameters)
"""Dependency of routers whose routes refuse unknown query parameters."""
