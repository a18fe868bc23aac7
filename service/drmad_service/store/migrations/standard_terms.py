"""Schema 2 to 3: fields and events have the names of the standard terms.

spec                   former names of spec fields, see drmad_client.spec.text.renamed
job hash               check -> preflight; names of methods' settings in fidelity
state, vectors         scalars of version 2, see drmad_client.records.migration
history                names in a MetaIteration's choice
events                 rejection {retreat} -> rollback {rollback}; choices as in history
counters               rejections -> rollbacks
checks                 the list of requested preflights is dropped: its requests expire
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from drmad_client.records.migration import migrate_choice, migrate_method, migrate_scalars
from drmad_client.spec.text.renamed import renamed
from drmad_service.store.layout import keys
from drmad_service.store.migrations.rewriting import Fields, JobRewriting, rewrite_jobs, write

MARKER = "2-3"
_REQUESTED_CHECKS = "drmad:checks"


async def migrate(redis: Any) -> None:
    await rewrite_jobs(redis, MARKER, REWRITING)
    rejections = await redis.hget(keys.COUNTERS, "rejections")

    def commands(pipe: Any) -> None:
        if rejections is not None:
            pipe.hincrbyfloat(keys.COUNTERS, "rollbacks", float(rejections))
            pipe.hdel(keys.COUNTERS, "rejections")
        pipe.unlink(_REQUESTED_CHECKS)

    await write(redis, MARKER, commands)


def _rewritten(text: str, change: Callable[[Any], Any]) -> str:
    """The JSON text after a change of its value; the same text where nothing changes."""
    before = json.loads(text)
    after = change(before)
    return text if after == before else json.dumps(after)


def _fields(fields: Fields) -> Fields:
    after = {"preflight" if name == "check" else name: text for name, text in fields.items()}
    if "spec" in after:
        after["spec"] = _rewritten(after["spec"], renamed)
    if "fidelity" in after:
        after["fidelity"] = _rewritten(after["fidelity"], _fidelity)
    return after


def _fidelity(report: dict[str, Any]) -> dict[str, Any]:
    if "exact" not in report:  # the comparison failed
        return report
    predictions = [_prediction(prediction) for prediction in report["predictions"]]
    return report | {"exact": _prediction(report["exact"]), "predictions": predictions}


def _prediction(prediction: dict[str, Any]) -> dict[str, Any]:
    figure = prediction["figure"]
    return prediction | {"figure": figure | {"method": migrate_method(figure["method"])}}


def _state(text: str) -> str:
    return _rewritten(text, _with_scalars)


def _with_scalars(described: dict[str, Any]) -> dict[str, Any]:
    scalars = described["scalars"]
    return described | {"scalars": migrate_scalars(scalars) if "version" in scalars else scalars}


def _history(fields: Fields) -> Fields:
    return fields | {"record": _rewritten(fields["record"], _with_choice)}


def _with_choice(record: dict[str, Any]) -> dict[str, Any]:
    if record.get("choice") is None:
        return record
    choice = record["choice"]
    is_former = "looked" in choice
    return record | {"choice": migrate_choice(choice)} if is_former else record


def _event(fields: Fields) -> Fields:
    if fields["type"] == "iteration":
        return fields | {"data": _rewritten(fields["data"], _with_choice)}
    if fields["type"] == "rejection":
        data = json.loads(fields["data"])
        data["rollback"] = data.pop("retreat")
        return fields | {"type": "rollback", "data": json.dumps(data)}
    return fields


REWRITING = JobRewriting(
    fields=_fields,
    values={"state": _state, "vectors": _state},
    entries={"history": _history, "events": _event},
)
