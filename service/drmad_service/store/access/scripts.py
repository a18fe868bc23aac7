"""The Lua scripts, which alone write a job's state."""

from __future__ import annotations

import json
from importlib import resources
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from drmad_service.errors import SchemaDiffers
from drmad_service.store.layout import keys
from drmad_service.store.layout.schema import SCHEMA

_PLACING = ("claim", "place", "outranked", "queue", "turns", "take_run", "take_request")


class Scripts:
    """Runs the scripts of the folder `lua`, each preceded by the prelude.

    Those of _PLACING are preceded by the placement, too.
    """

    def __init__(self, redis: Redis, **constants: float) -> None:
        names = {
            "schema_key": keys.SCHEMA,
            "schema": str(SCHEMA),
            "jobs": keys.JOBS,
            "queue": keys.QUEUE,
            "ended": keys.ENDED,
            "cluster": keys.CLUSTER,
            "nodes": keys.NODES,
            "forgotten_ms": 3_600_000,
            "leases": keys.LEASES,
            "reservations": keys.RESERVATIONS,
            "places": keys.PLACES,
            "reserved_at": keys.RESERVED_AT,
            "requests": keys.REQUESTS,
            "request": keys.REQUEST,
            "notices": keys.NOTICES,
            "runs": keys.RUNS,
            "counters": keys.COUNTERS,
            "changes": keys.CHANGES,
            "job": keys.job(""),
            "tenant": "drmad:tenant:",
            "probe": keys.PROBE,
            "limits": keys.LIMITS,
            "audit": keys.AUDIT,
            "audit_kept": keys.AUDIT_KEPT,
            "key": keys.key(""),
            "bucket": keys.bucket(""),
            "slack": 1e-6,  # fractions of a GPU do not add up exactly
        }
        folder = resources.files("drmad_service.store") / "lua"
        texts = {
            path.name.removesuffix(".lua"): path.read_text(encoding="utf-8")
            for path in folder.iterdir()
        }
        prelude = f"local K = cjson.decode('{json.dumps(names | constants)}')\n{texts['prelude']}"
        placing = prelude + texts["placement"]
        self._scripts = {
            name: redis.register_script((placing if name in _PLACING else prelude) + text)
            for name, text in texts.items()
            if name not in ("prelude", "placement")
        }

    async def run(self, script: str, *args: str | bytes | float) -> Any:
        """Run a script. Returns its answer with bytes decoded as text.

        Raises:
            SchemaDiffers: Redis holds data of another schema version; the script changed nothing.
        """
        try:
            return _decoded(await self._scripts[script](args=args))
        except ResponseError as error:
            refusal, _, found = str(error).partition(" ")
            if refusal == "SCHEMA":
                raise SchemaDiffers(found, SCHEMA) from error
            raise


def _decoded(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode()
    return [_decoded(item) for item in value] if isinstance(value, list) else value
