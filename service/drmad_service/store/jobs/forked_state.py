"""The state from which a fork continues: what of the kept state no longer fits is dropped."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from drmad_client.records.migration import migrate_scalars
from drmad_client.spec.job import JobSpec

_WITHOUT_INFLUENCE = {"placement", "batched", "workers"}
"""Fields of `replicas` that change where replicas are computed, and not what."""


def forked_scalars(
    scalars: Mapping[str, Any], before: JobSpec, after: JobSpec
) -> tuple[dict[str, Any], list[str]]:
    """The scalars of a kept state for a fork, and what was adapted, one sentence for each.

    A fork that changes nothing of influence repeats the numbers of the forked job.

    Args:
        scalars: those of the kept state, see drmad_workers.meta.state.
        before: the spec under which the state was computed, with the values of its search.
        after: the spec of the fork.
    """
    # The fork keeps neither the model nor the record of the other job's best meta-iteration, and a
    # share of its own training runs confirms its result.
    best = ("best_iteration", "best_validation_loss", "best_error", "best_bound")
    own = {**dict.fromkeys(best), "runs": 0.0}
    kept = (migrate_scalars(scalars) if "version" in scalars else dict(scalars)) | own
    evaluation = _changed(before, after, "training", "replicas", "seed")
    if _differs(before, after, "judging_share"):
        evaluation.append("meta.judging_share")
    method = _changed(before, after, "hypergradient")
    outer = [name for name in ("optimizer", "learning_rate") if _differs(before, after, name)]
    adapted: list[str] = []
    if kept.get("choice") is not None and (evaluation or method):
        kept["choice"] = None
        if after.hypergradient.method == "auto":
            adapted.append(f"auto probes again, because {_and(evaluation + method)} changed")
    if evaluation and kept.get("recent_losses"):
        kept |= {"reference_loss": None, "stale": 0, "recent_losses": [], "recent_metrics": []}
        kept["start_figures"] = None
        adapted.append(
            f"the validation losses of the forked job do not count, because {_and(evaluation)} "
            "changed: meta.patience and meta.rollback_tolerance begin anew"
        )
    elif _differs(before, after, "patience") and kept.get("stale"):
        kept["stale"] = 0
        adapted.append("meta.patience counts anew, because it changed")
    if outer and kept.get("step_scale", 1.0) != 1.0:
        adapted.append(
            f"the outer step has its full length, because {_and([f'meta.{o}' for o in outer])} "
            f"changed: rollbacks had scaled it by {kept['step_scale']:g}"
        )
        kept["step_scale"] = 1.0
    if "optimizer" in outer and after.meta.optimizer in ("adam", "rmsprop"):
        adapted.append(f"{after.meta.optimizer} begins with moments of zero")
    if before.training.optimizer != after.training.optimizer:
        adapted += [
            f"{h.name or h.kind} keeps its values, which were tuned under "
            f"{before.training.optimizer}"
            for h in after.hyperparameters
            if h.is_rate
        ]
    return kept, adapted


def _changed(before: JobSpec, after: JobSpec, *parts: str) -> list[str]:
    """The parts of a job that changed in a field that has influence on the numbers."""
    one, other = (spec.model_dump(include={*parts}) for spec in (before, after))
    for fields in (one, other):
        for name in _WITHOUT_INFLUENCE & fields.get("replicas", {}).keys():
            del fields["replicas"][name]
    return [part for part in parts if one[part] != other[part]]


def _differs(before: JobSpec, after: JobSpec, name: str) -> bool:
    return bool(getattr(before.meta, name) != getattr(after.meta, name))


def _and(names: list[str]) -> str:
    return " and ".join(names)
