"""The settings that each method refuses, as rules on plain values for validation and engine.

This module needs no pydantic, so that the engine can import it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple, Protocol

from drmad_client.spec import defaults
from drmad_client.spec.inner.optimizers import OPTIMIZERS

FORWARD_MAX_ENTRIES = 256
"""Entries of one hyperparameter in forward mode: beyond a few dozen, replay is faster anyway."""

GROUP_RATES = ("learning_rate", "momentum", "weight_decay")
"""The rates that a group of parameters can have of its own."""
AUTO_NOT_BATCHED = "auto probes each replica separately and may choose different methods"
"""Why the replicas of a job with the method `auto` are no batch."""

NOT_IN_THE_MINIMUM = "the minimum of the training loss does not depend on how it was reached"


def steps_not_batched(method: str) -> str:
    """Why replicas are no batch under a method that takes part in the training steps."""
    return f"{method} changes or differentiates the training steps themselves"


def rate_not_batched(name: str) -> str:
    """Why replicas are no batch where a rate of the inner optimizer is tuned."""
    return f"the derivatives by {name} accumulate separately for each replica"


class Refusal(NamedTuple):
    """A setting that a method does not take: the path of its field, and the message."""

    field: str
    message: str


def last_steps(horizon: int | None, total: int) -> range:
    """The last `horizon` of `total` inner steps; all of them for None."""
    return range(total - (horizon or total), total)


def first_step_missing(steps: range) -> str | None:
    """Why a method has no derivative by the initial weights; None if it reaches step 0."""
    if 0 in steps:
        return None
    return f"it differentiates only the last {len(steps)} steps, and step 0 lies before them"


def steps_missing(steps: range, total: int) -> str | None:
    """Why a method has no derivative by the rate of every step; None if it reaches all steps."""
    if len(steps) == total:
        return None
    return f"it differentiates only {len(steps)} of the {total} steps"


def too_many_tangents(entries: int) -> str | None:
    """Why forward mode does not take a hyperparameter of so many entries; None if it does."""
    if entries <= FORWARD_MAX_ENTRIES:
        return None
    return (
        f"it carries a tangent for each entry, at most {FORWARD_MAX_ENTRIES}, and this has "
        f"{entries}"
    )


def horizon_refusals(horizon: int | None, total: int) -> Iterator[Refusal]:
    if horizon is not None and not 1 <= horizon <= total:
        yield Refusal(
            "hypergradient.horizon",
            "horizon must be between 1 and training.steps (with mode: online meta.window), "
            f"{total}, got {horizon}",
        )


def schedule_refusals(options: Mapping[str, Any], total: int) -> Iterator[Refusal]:
    """`options` are those of one schedule by name; `total` is the number of inner steps."""

    def refusal(name: str, message: str) -> Refusal:
        return Refusal(f"training.schedule.{name}", f"{name} {message}")

    times = {name: [options[name]] for name in ("warmup", "every", "timescale") if name in options}
    for name, numbers in {**times, "milestones": options.get("milestones", ())}.items():
        for number in numbers:
            if number is not None and number >= 1 and number != int(number):
                yield refusal(
                    name,
                    "must be a share of the steps below 1, or a whole number of steps, got "
                    f"{number:g}",
                )
    if options.get("warmup", 0) > total:
        yield refusal("warmup", f"must be at most training.steps, {total}, got {options['warmup']}")
    if "every" in options and (options["every"] is None) == (not options["milestones"]):
        yield refusal("every", "or milestones must be given, and not both")
    factors, at = options.get("factors"), options.get("at")
    if factors is not None and at is None and len(factors) != total:
        yield refusal(
            "factors",
            f"must have one entry for each of the {total} steps, got {len(factors)}: set `at` to "
            "the positions between which they are interpolated",
        )
    if at is not None and (len(at) != len(factors or ()) or list(at) != sorted(set(at))):
        yield refusal("at", "must have an increasing position for each of the factors")


def clip_refusals(clip_norm: float | None, clip_value: float | None) -> Iterator[Refusal]:
    if clip_norm is not None and clip_value is not None:
        yield Refusal(
            "training.clip_value",
            "clip_value must be null beside clip_norm, because their order would matter: leave one "
            "of the two out",
        )


def nesterov_refusals(optimizer: str, nesterov: bool, momentum: float) -> Iterator[Refusal]:
    if nesterov and optimizer == "sgd" and momentum == 0.0:
        yield Refusal(
            "training.nesterov",
            "nesterov needs a momentum above 0, as in torch: set momentum, or leave nesterov out",
        )


def group_refusals(
    number: int, options: Mapping[str, Any], unread: Iterable[str]
) -> Iterator[Refusal]:
    """`options` are those of group `number`; `unread` names what the optimizer does not read."""
    for name in GROUP_RATES:
        if options[name] is None:
            continue
        if options["frozen"] or name in unread:
            why = "in a frozen group" if options["frozen"] else "with this optimizer"
            yield Refusal(
                f"training.groups[{number}].{name}", f"{name} has no effect {why}: leave it out"
            )


def preset_refusals(preset: str | None, changed: Iterable[str]) -> Iterator[Refusal]:
    """`changed` names all settings that are not at their defaults."""
    beside = [name for name in changed if name not in ("method", "preset", "hvp")]
    if preset is not None and beside:
        yield Refusal(
            "hypergradient.preset",
            f"preset {preset} fixes all other settings: remove {', '.join(beside)}, or the preset",
        )


class ShortcutSettings(Protocol):
    """The settings of the method `shortcut`, of the spec and of the engine alike."""

    @property
    def hvp(self) -> str: ...

    @property
    def horizon(self) -> int | None: ...

    @property
    def budget(self) -> int: ...

    @property
    def interpolation_nodes(self) -> int | None: ...

    @property
    def averaging_window(self) -> int | None: ...

    @property
    def max_stride(self) -> int: ...

    @property
    def max_adjoint_change(self) -> float | None: ...

    @property
    def minibatch_subsampling(self) -> int | None: ...

    @property
    def curvature(self) -> str: ...


def shortcut_refusals(settings: ShortcutSettings, total: int) -> Iterator[Refusal]:
    if settings.interpolation_nodes is not None and settings.budget != defaults.Shortcut.budget:
        yield Refusal(
            "hypergradient.budget",
            f"budget is that of the trajectory, got {settings.budget} beside interpolation_nodes, "
            "which take its place: leave one of the two out",
        )
    if settings.averaging_window is not None and settings.interpolation_nodes is None:
        yield Refusal(
            "hypergradient.averaging_window",
            "averaging_window is the window of an interpolation node: set interpolation_nodes "
            "too, or leave averaging_window out",
        )
    if settings.curvature == "gauss_newton" and settings.hvp == "finite_difference":
        yield Refusal(
            "hypergradient.hvp",
            "curvature gauss_newton computes its own product: use it with hvp exact",
        )
    if settings.max_stride == 1 and _is_set(settings.max_adjoint_change):
        yield Refusal(
            "hypergradient.max_adjoint_change",
            f"max_adjoint_change has no effect with max_stride 1, got "
            f"{settings.max_adjoint_change:g}: it shortens strides; leave it out, or raise "
            "max_stride",
        )
    early = total // 2 - last_steps(settings.horizon, total).start
    if early < 2 and (settings.minibatch_subsampling or 1) > 1:
        yield Refusal(
            "hypergradient.minibatch_subsampling",
            f"minibatch_subsampling has no effect on the last {settings.horizon or total} of "
            f"{total} steps, got {settings.minibatch_subsampling}: it skips minibatches of the "
            "first half of training; leave it out, or lengthen the horizon",
        )


def single_step_refusals(settings: ShortcutSettings) -> Iterator[Refusal]:
    """What has no effect where a momentum is tuned per step, and every stride is a single step."""
    set_ = {
        "max_stride": settings.max_stride not in (1, defaults.Shortcut.max_stride),
        "max_adjoint_change": _is_set(settings.max_adjoint_change),
        "minibatch_subsampling": (settings.minibatch_subsampling or 1) > 1,
    }
    for name in (name for name, is_set in set_.items() if is_set):
        yield Refusal(
            f"hypergradient.{name}",
            f"{name} has no effect where a momentum is tuned per step, got "
            f"{getattr(settings, name):g}: shortcut then reverses single steps on every minibatch; "
            "leave it out, or tune the momentum per model or layer",
        )


def _is_set(max_adjoint_change: float | None) -> bool:
    """null takes every stride in full, which holds for single steps too."""
    return max_adjoint_change not in (None, defaults.Shortcut.max_adjoint_change)


def reversible_refusals(optimizer: str, nesterov: bool) -> Iterator[Refusal]:
    if nesterov:
        yield Refusal(
            "training.nesterov",
            "reversible cannot undo a step of Nesterov's momentum, whose weights need the gradient "
            "at the weights before: use replay, or set nesterov to false",
        )
    if not OPTIMIZERS[optimizer].reversible:
        allowed = " and ".join(name for name, row in OPTIMIZERS.items() if row.reversible)
        yield Refusal(
            "training.optimizer",
            f"reversible undoes {allowed}, not {optimizer}: use replay",
        )


def implicit_refusals(
    optimizer: str,
    weight_decay: float,
    solver: str,
    step_size: float | None,
    groups: Iterable[Mapping[str, Any]] = (),
) -> Iterator[Refusal]:
    """`groups` are those of the training, each by its options."""
    groups = list(groups)
    grouped = any(group["learning_rate"] or group["momentum"] for group in groups)
    unknown = grouped or not OPTIMIZERS[optimizer].fixed_step
    if solver == "neumann" and step_size is None and unknown:
        beside = "groups with rates of their own" if grouped else optimizer
        yield Refusal(
            "hypergradient.step_size",
            f"step_size must be stated for neumann under {beside}, got null",
        )
    if solver == "conjugate_gradient" and step_size is not None:
        yield Refusal(
            "hypergradient.step_size",
            f"step_size is that of neumann, got {step_size:g} with conjugate_gradient: leave it "
            "out, or set solver: neumann",
        )
    decaying = any(group["weight_decay"] for group in groups)
    if weight_decay or decaying:
        yield Refusal(
            "training.weight_decay" if weight_decay else "training.groups",
            "implicit needs the minimum of the training loss, from which weight_decay leads "
            "away: set it to 0, and penalise the weights by an l2 hyperparameter",
        )


def forward_refusals(hvp: str) -> Iterator[Refusal]:
    if hvp != "exact":
        yield Refusal(
            "hypergradient.hvp",
            f"forward differentiates twice, and hvp {hvp} does not: use replay with it",
        )
