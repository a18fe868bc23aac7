"""The Lua scripts, which are the only writers of a job's state."""

from __future__ import annotations

import json
from importlib import resources
from typing import Any

from redis.asyncio import Redis

from drmad_service import keys


class Scripts:
    """Runs the scripts of the folder `lua`, each with the prelude before it."""

    def __init__(self, redis: Redis, **constants: float) -> None:
        names = {
            "jobs": keys.JOBS,
            "queue": keys.QUEUE,
            "ended": keys.ENDED,
            "cluster": keys.CLUSTER,
            "leases": keys.LEASES,
            "reservations": keys.RESERVATIONS,
            "notices": keys.NOTICES,
            "counters": keys.COUNTERS,
            "changes": keys.CHANGES,
            "job": keys.job(""),
            "tenant": "drmad:tenant:",
            "key": keys.key(""),
            "bucket": keys.bucket(""),
            "slack": 1e-6,  # fractions of a GPU do not add up exactly
        }
        folder = resources.files("drmad_service") / "lua"
        texts = {
            path.name.removesuffix(".lua"): path.read_text(encoding="utf-8")
            for path in folder.iterdir()
        }
        prelude = f"local K = cjson.decode('{json.dumps(names | constants)}')\n{texts['prelude']}"
        self._scripts = {
            name: redis.register_script(prelude + text)
            for name, text in texts.items()
            if name != "prelude"
        }

    async def run(self, script: str, *args: str | bytes | float) -> Any:
        """What the script returns, its bytes as text."""
        return _decoded(await self._scripts[script](args=args))


def _decoded(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode()
    return [_decoded(item) for item in value] if isinstance(value, list) else value
