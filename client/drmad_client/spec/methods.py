"""How the hypergradient is computed: each method's options, and what it has no derivative by.

The engine holds the same rules (drmad_workers.hypergradients); a test holds them together.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from drmad_client.spec.base import Spec

if TYPE_CHECKING:
    from drmad_client.spec.job import HyperparameterSpec, TrainingSpec

Misfit = tuple[tuple[int | str, ...], Any, str]
"""The path of a field, its value, and what is wrong with it."""


class _Method(Spec):
    hvp: Literal["exact", "finite_difference"] = Field(
        default="exact",
        description="Products with the Hessian: by differentiating twice, or by two gradients, "
        "for models with kernels that cannot be differentiated twice.",
    )

    def steps(self, total: int) -> range:
        """The inner steps that it differentiates, out of `total`."""
        return range(total)

    def refuses(
        self, hyperparameter: HyperparameterSpec, total: int, entries: int | None
    ) -> str | None:
        """Why it has no derivative by this hyperparameter, or not by all of it; None if it has."""
        steps = self.steps(total)
        kind = hyperparameter.kind
        if kind == "init_scale" and 0 not in steps:
            return f"step 0 lies before the last {len(steps)} steps, which alone it differentiates"
        rate = kind in ("learning_rate", "momentum")
        if rate and "step" in getattr(hyperparameter, "per", "") and len(steps) < total:
            return f"it differentiates {len(steps)} of the {total} steps only"
        return None

    def misfits(self, training: TrainingSpec) -> Iterator[Misfit]:
        """Settings that do not fit the training."""
        yield from ()


class _Horizon(_Method):
    horizon: int | None = Field(
        default=None,
        ge=1,
        description="How many of the last inner steps are differentiated; null: all of them.",
    )

    def steps(self, total: int) -> range:
        return range(total - (self.horizon or total), total)

    def misfits(self, training: TrainingSpec) -> Iterator[Misfit]:
        if self.horizon is not None and self.horizon > training.steps:
            message = f"must be at most training.steps, {training.steps}, got {self.horizon}"
            yield ("hypergradient", "horizon"), self.horizon, message


class AutoMethod(_Method):
    """The cheapest method whose hypergradient can be trusted, measured on the job itself."""

    method: Literal["auto"] = "auto"
    min_cosine: float = Field(
        default=0.8,
        gt=0.0,
        le=1.0,
        description="Least cosine to the exact hypergradient that a method must show.",
    )


class ShortcutMethod(_Horizon):
    """DrMAD: backwards along a cheap path distilled from the forward pass (arXiv 1601.00917)."""

    method: Literal["shortcut"] = "shortcut"
    budget: int = Field(
        default=16,
        ge=2,
        le=1024,
        description="Copies of the weights that the path may take: as many points as fit, in 2.5 "
        "bits a weight.",
    )
    interpolation_nodes: int | None = Field(
        default=None,
        ge=1,
        le=1024,
        description="So many averaged copies of the weights carry the path; null: points in few "
        "bits do.",
    )
    averaging_window: int | None = Field(
        default=None,
        ge=1,
        le=10_000,
        description="Window of a knot's average, in inner steps; null: up to the next knot.",
    )
    max_stride: int = Field(
        default=10,
        ge=1,
        le=1000,
        description="Inner steps that one backward step stands for at most, their minibatches "
        "joined.",
    )
    max_adjoint_change: float | None = Field(
        default=0.12,
        gt=0.0,
        le=1.0,
        description="How far the curvature may move the adjoint in one stride, relative to its "
        "length; null takes every stride in full.",
    )
    minibatch_subsampling: int | None = Field(
        default=None,
        ge=1,
        le=1000,
        description="In the first half of the training one minibatch in so many stands for all; "
        "null: every one is visited, or one in six where the model has convolutions.",
    )
    contraction: bool = Field(
        default=False, description="Let the adjoint grow by at most 1 % per inner step."
    )
    curvature: Literal["hessian", "gauss_newton"] = Field(
        default="hessian",
        description="gauss_newton keeps the curvature of the loss and leaves out the model's.",
    )
    preset: Literal["paper", "paper_tenth"] | None = Field(
        default=None,
        description="The published forms: paper takes T backward steps on the line from the first "
        "to the last weights, paper_tenth T/10. It stands alone: no other option beside it.",
    )

    @model_validator(mode="after")
    def _average_needs_knots(self) -> Self:
        if self.averaging_window is not None and self.interpolation_nodes is None:
            raise PydanticCustomError(
                "average_without_knots", "average is a knot's window: state knots too, or leave it"
            )
        return self

    @model_validator(mode="after")
    def _preset_stands_alone(self) -> Self:
        fields = type(self).model_fields
        beside = [
            name
            for name, value in self
            if name not in ("method", "preset", "hvp") and value != fields[name].default
        ]
        if self.preset is not None and beside:
            raise PydanticCustomError(
                "preset_not_alone",
                "preset {preset} sets every option itself; remove {beside}",
                {"preset": self.preset, "beside": ", ".join(beside)},
            )
        return self

    def steps(self, total: int) -> range:
        if self.preset == "paper_tenth":
            return range(max(1, total // 10))
        return super().steps(total)

    def misfits(self, training: TrainingSpec) -> Iterator[Misfit]:
        yield from super().misfits(training)
        if self.curvature == "gauss_newton" and self.hvp == "finite_difference":
            message = "curvature gauss_newton is a product of its own: use it with hvp exact"
            yield ("hypergradient", "hvp"), self.hvp, message


class ReplayMethod(_Horizon):
    """Exact: the weights are recomputed between about √T kept snapshots."""

    method: Literal["replay"] = "replay"


class StoredMethod(_Horizon):
    """Exact, with the weights of every step kept: fast, and the first to run out of memory."""

    method: Literal["stored"] = "stored"


class ReversibleMethod(_Method):
    """Exact, with the path recovered backwards bit for bit in fixed point (arXiv 1502.03492)."""

    method: Literal["reversible"] = "reversible"

    def misfits(self, training: TrainingSpec) -> Iterator[Misfit]:
        if training.optimizer in ("adam", "adamw"):
            message = f"reversible undoes sgd and damped_sgd, not {training.optimizer}: use replay"
            yield ("training", "optimizer"), training.optimizer, message


class OneStepMethod(_Method):
    """The last inner step alone (T1-T2, arXiv 1511.06727): cheap, and short-sighted."""

    method: Literal["one_step"] = "one_step"

    def steps(self, total: int) -> range:
        return range(total - 1, total)


class ImplicitMethod(_Method):
    """The implicit function theorem at the end of a training that has converged."""

    method: Literal["implicit"] = "implicit"
    solver: Literal["conjugate_gradient", "neumann"] = Field(
        default="conjugate_gradient",
        description="Of the linear system with the Hessian; neumann sums a series.",
    )
    iterations: int = Field(
        default=100, ge=1, le=100_000, description="Products with the Hessian, at most."
    )
    tolerance: float = Field(
        default=0.01,
        gt=0.0,
        le=1.0,
        description="Relative residual to be reached, or the job fails; 1 takes what is reached.",
    )
    damping: float = Field(
        default=0.0, ge=0.0, le=1e6, description="Added to the Hessian's curvature."
    )
    step_size: float | None = Field(
        default=None,
        gt=0.0,
        le=1000.0,
        description="Of neumann; null takes the training's learning rate.",
    )

    def refuses(
        self, hyperparameter: HyperparameterSpec, total: int, entries: int | None
    ) -> str | None:
        if hyperparameter.kind in ("learning_rate", "momentum", "init_scale"):
            return "the minimum of the training loss does not depend on how it was reached"
        return None

    def misfits(self, training: TrainingSpec) -> Iterator[Misfit]:
        adam = training.optimizer in ("adam", "adamw")
        if adam and self.solver == "neumann" and self.step_size is None:
            message = f"must be stated for neumann under {training.optimizer}, got null"
            yield ("hypergradient", "step_size"), None, message
        if adam and training.weight_decay:
            message = (
                "implicit needs the minimum of the training loss, from which weight_decay leads "
                "away: set it to 0, and penalise the weights by an l2 hyperparameter"
            )
            yield ("training", "weight_decay"), training.weight_decay, message


class ForwardMethod(_Method):
    """Exact, in forward mode: one tangent per hyperparameter, for a few of them."""

    most: ClassVar[int] = 256

    method: Literal["forward"] = "forward"

    def refuses(
        self, hyperparameter: HyperparameterSpec, total: int, entries: int | None
    ) -> str | None:
        if entries is not None and entries > self.most:
            most = self.most
            return f"it carries a tangent for each entry, at most {most}, and this has {entries}"
        return None

    def misfits(self, training: TrainingSpec) -> Iterator[Misfit]:
        if self.hvp != "exact":
            message = (
                f"forward differentiates twice, and hvp {self.hvp} does not: use replay with it"
            )
            yield ("hypergradient", "hvp"), self.hvp, message


HypergradientSpec = Annotated[
    AutoMethod
    | ShortcutMethod
    | ReplayMethod
    | StoredMethod
    | ReversibleMethod
    | OneStepMethod
    | ImplicitMethod
    | ForwardMethod,
    Field(discriminator="method"),
]
