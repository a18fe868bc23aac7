"""The methods for the hypergradient: one class each, with all properties that the client needs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from drmad_client.spec import bounds, defaults, refusals
from drmad_client.spec.base import Misfit, Spec
from drmad_client.spec.hyperparameters import Hyperparameter, MomentumHyperparameter
from drmad_client.spec.inner.training import TrainingSpec


class MethodSpec(Spec):
    """Base of the methods: the properties and rules that validation, engine and form read.

    Attributes:
        engine: module and class below `drmad_workers.hypergradients`.
        is_exact: whether its hypergradient is exact over the steps that it differentiates, or
            the method measures its own fidelity.
    """

    engine: ClassVar[str]
    is_exact: ClassVar[bool] = False

    hvp: Literal["exact", "finite_difference"] = Field(
        default=defaults.Method.hvp,
        description="Computation of Hessian-vector products: exact differentiates twice; "
        "finite_difference subtracts two gradients, for kernels without a second derivative.",
    )

    @property
    def not_batched(self) -> str | None:
        """Why it computes the replicas of a device in turn; None if it may batch them."""
        return None

    def steps(self, total: int) -> range:
        """The inner steps that it differentiates, out of `total`."""
        return range(total)

    def refuses(
        self, hyperparameter: Hyperparameter, total: int, entries: int | None
    ) -> str | None:
        """Why it has no derivative by this hyperparameter, or not by all of it; None if it has."""
        steps = self.steps(total)
        if hyperparameter.scales_start:
            return refusals.first_step_missing(steps)
        if hyperparameter.is_rate and hyperparameter.per_step:
            return refusals.steps_missing(steps, total)
        return None

    def setting_refusals(self, training: TrainingSpec) -> Iterable[refusals.Refusal]:
        """Settings that do not fit together, or do not fit the training."""
        return ()

    def refusals_beside(
        self, hyperparameters: Sequence[Hyperparameter], total: int
    ) -> Iterable[refusals.Refusal]:
        """Settings that have no effect beside these hyperparameters, over `total` inner steps."""
        return ()

    def misfits(
        self, training: TrainingSpec, hyperparameters: Sequence[Hyperparameter]
    ) -> Iterator[Misfit]:
        """The refusals as misfits of the job, the first of each field."""
        found: dict[str, str] = {}
        for field, message in (
            *self.setting_refusals(training),
            *self.refusals_beside(hyperparameters, training.steps),
        ):
            found.setdefault(field, message)
        for field, message in found.items():
            section, _, name = field.partition(".")
            value: Any = getattr(training if section == "training" else self, name)
            yield (section, name), value, message


class _Horizon(MethodSpec):
    horizon: int | None = Field(
        default=None,
        ge=1,
        description="Number of inner steps, counted from the last, to differentiate; null takes "
        "all. With mode: online those of a window, beyond which stored may go.",
    )

    def steps(self, total: int) -> range:
        return refusals.last_steps(self.horizon, total)

    def setting_refusals(self, training: TrainingSpec) -> Iterable[refusals.Refusal]:
        return refusals.horizon_refusals(self.horizon, training.steps)


class AutoMethod(MethodSpec):
    """Chooses the cheapest method whose cosine to the exact hypergradient, measured on the job,
    exceeds `min_cosine`."""

    engine: ClassVar[str] = "automatic.auto:Auto"
    is_exact: ClassVar[bool] = True

    method: Literal["auto"] = "auto"
    min_cosine: Annotated[float, bounds.Auto.min_cosine] = Field(
        default=defaults.Method.min_cosine,
        description="Minimum cosine to the exact hypergradient at which a cheaper method is "
        "chosen.",
    )

    @property
    def not_batched(self) -> str:
        return refusals.AUTO_NOT_BATCHED


class ShortcutMethod(_Horizon):
    """DrMAD: a backward pass along an approximate trajectory (arXiv 1601.00917)."""

    engine: ClassVar[str] = "shortcut:Shortcut"

    method: Literal["shortcut"] = "shortcut"
    budget: Annotated[int, bounds.Shortcut.budget] = Field(
        default=defaults.Shortcut.budget,
        description="Memory budget of the backward pass, in copies of the weights, or of Adam's "
        "state under Adam; quantized points take 2.5 bits a weight. Where the weights take at most "
        "8 MiB, it bounds the trajectory alone.",
    )
    interpolation_nodes: Annotated[int, bounds.Shortcut.interpolation_nodes] | None = Field(
        default=None,
        description="Number of interpolation nodes, each an average of the weights; null takes the "
        "quantized trajectory, or under Adam as many nodes as the budget holds.",
    )
    averaging_window: Annotated[int, bounds.Shortcut.averaging_window] | None = Field(
        default=None,
        description="Window of a node's average, in inner steps; null reaches the next node.",
    )
    max_stride: Annotated[int, bounds.Shortcut.max_stride] = Field(
        default=defaults.Shortcut.max_stride,
        description="Maximum number of inner steps that one backward step reverses at once, with "
        "their minibatches joined.",
    )
    max_adjoint_change: Annotated[float, bounds.Shortcut.max_adjoint_change] | None = Field(
        default=defaults.Shortcut.max_adjoint_change,
        description="Maximum change of the adjoint by the curvature in one stride, relative to the "
        "adjoint's norm; null takes every stride in full.",
    )
    minibatch_subsampling: Annotated[int, bounds.Shortcut.minibatch_subsampling] | None = Field(
        default=None,
        description="Interval of the minibatches that the first half of training uses: 6 uses the "
        "first of every six; null uses all, or the first of six for models with convolutions "
        "where no hyperparameter has a value for every training row.",
    )
    contraction: bool = Field(
        default=defaults.Shortcut.contraction,
        description="Whether the growth of the adjoint's norm is limited to 1 % per inner step.",
    )
    curvature: Literal["hessian", "gauss_newton"] = Field(
        default=defaults.Shortcut.curvature,
        description="hessian takes the full curvature; gauss_newton keeps that of the loss and "
        "omits that of the model.",
    )
    preset: Literal["paper", "paper_tenth"] | None = Field(
        default=None,
        description="The published method: paper takes T backward steps on the line from the first "
        "to the last weights, paper_tenth takes T/10. It excludes every other option but hvp.",
    )

    def steps(self, total: int) -> range:
        if self.preset == "paper_tenth":
            return range(max(1, total // 10))
        return refusals.last_steps(self.horizon, total)

    def setting_refusals(self, training: TrainingSpec) -> Iterable[refusals.Refusal]:
        yield from super().setting_refusals(training)
        defaults = type(self).model_fields
        changed = [name for name, value in self if value != defaults[name].default]
        yield from refusals.preset_refusals(self.preset, changed)
        yield from refusals.shortcut_refusals(self, training.steps)

    def refusals_beside(
        self, hyperparameters: Sequence[Hyperparameter], total: int
    ) -> Iterable[refusals.Refusal]:
        tuned = (h for h in hyperparameters if isinstance(h, MomentumHyperparameter))
        if total > 1 and any(momentum.per_step for momentum in tuned):
            yield from refusals.single_step_refusals(self)


class ReplayMethod(_Horizon):
    """Exact: recomputes the trajectory between about √T snapshots."""

    engine: ClassVar[str] = "replay:Replay"
    is_exact: ClassVar[bool] = True

    method: Literal["replay"] = "replay"


class StoredMethod(_Horizon):
    """Exact: stores the weights of every step; the fastest exact method, with the most memory."""

    engine: ClassVar[str] = "stored:Stored"
    is_exact: ClassVar[bool] = True

    method: Literal["stored"] = "stored"


class ReversibleMethod(MethodSpec):
    """Exact: undoes each training step bit for bit in fixed point (arXiv 1502.03492)."""

    engine: ClassVar[str] = "reversible:Reversible"
    is_exact: ClassVar[bool] = True

    method: Literal["reversible"] = "reversible"

    @property
    def not_batched(self) -> str:
        return refusals.steps_not_batched(self.method)

    def setting_refusals(self, training: TrainingSpec) -> Iterable[refusals.Refusal]:
        return refusals.reversible_refusals(training.optimizer, training.nesterov)


class OneStepMethod(MethodSpec):
    """Differentiates only the last inner step (T1-T2, arXiv 1511.06727): cheap and biased."""

    engine: ClassVar[str] = "one_step:OneStep"

    method: Literal["one_step"] = "one_step"

    def steps(self, total: int) -> range:
        return range(total - 1, total)


class ImplicitMethod(MethodSpec):
    """Implicit differentiation at the end of a training run, which must have converged."""

    engine: ClassVar[str] = "implicit:Implicit"

    method: Literal["implicit"] = "implicit"
    solver: Literal["conjugate_gradient", "neumann"] = Field(
        default=defaults.Implicit.solver,
        description="Solver of the linear system with the Hessian; neumann sums a series.",
    )
    iterations: Annotated[int, bounds.Implicit.iterations] = Field(
        default=defaults.Implicit.iterations,
        description="Maximum number of Hessian-vector products.",
    )
    tolerance: Annotated[float, bounds.Implicit.tolerance] = Field(
        default=defaults.Implicit.tolerance,
        description="Relative residual above which the job fails; 1 accepts every residual.",
    )
    damping: Annotated[float, bounds.Implicit.damping] = Field(
        default=defaults.Implicit.damping,
        description="Constant added to the eigenvalues of the Hessian.",
    )
    step_size: Annotated[float, bounds.Implicit.step_size] | None = Field(
        default=None,
        description="Step size of the Neumann series; null takes that of the inner optimizer. "
        "Conjugate gradients have none.",
    )

    def refuses(
        self, hyperparameter: Hyperparameter, total: int, entries: int | None
    ) -> str | None:
        if hyperparameter.is_rate or hyperparameter.scales_start:
            return refusals.NOT_IN_THE_MINIMUM
        return None

    def setting_refusals(self, training: TrainingSpec) -> Iterable[refusals.Refusal]:
        return refusals.implicit_refusals(
            training.optimizer,
            training.weight_decay,
            self.solver,
            self.step_size,
            map(dict, training.groups),
        )


class ForwardMethod(MethodSpec):
    """Exact, in forward mode: carries one tangent for each entry of a hyperparameter."""

    engine: ClassVar[str] = "forward:Forward"
    is_exact: ClassVar[bool] = True

    method: Literal["forward"] = "forward"

    @property
    def not_batched(self) -> str:
        return refusals.steps_not_batched(self.method)

    def refuses(
        self, hyperparameter: Hyperparameter, total: int, entries: int | None
    ) -> str | None:
        return None if entries is None else refusals.too_many_tangents(entries)

    def setting_refusals(self, training: TrainingSpec) -> Iterable[refusals.Refusal]:
        return refusals.forward_refusals(self.hvp)


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
