"""Schema 3 to 4: code that states no `initialize` draws its weights by `reset`, as it did before.

spec                   problem.initialize of a user's own code is "reset"
"""

from __future__ import annotations

import json
from typing import Any

from drmad_service.store.migrations.rewriting import Fields, JobRewriting, rewrite_jobs

MARKER = "3-4"


async def migrate(redis: Any) -> None:
    await rewrite_jobs(redis, MARKER, REWRITING)


def _fields(fields: Fields) -> Fields:
    spec = json.loads(fields["spec"])
    problem = spec["problem"]
    if "code" not in problem or "initialize" in problem:
        return fields
    problem["initialize"] = "reset"
    return fields | {"spec": json.dumps(spec)}


REWRITING = JobRewriting(fields=_fields, values={}, entries={})
