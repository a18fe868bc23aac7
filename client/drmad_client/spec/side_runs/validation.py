"""What a validation of a hypergradient retrains."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from drmad_client.spec import bounds, defaults
from drmad_client.spec.base import Spec


class ValidationSpec(Spec):
    """What a validation of a job's hypergradient by retraining asks for.

    It trains about `changes` times for every size, and a few times for every draw.
    """

    iteration: Literal["best", "last"] | Annotated[int, Field(ge=0, lt=2**31)] = Field(
        default="best",
        description="Meta-iteration at whose hyperparameters the hypergradient is validated.",
    )
    changes: Annotated[int, bounds.Validation.changes] = Field(
        default=defaults.Validation.changes,
        description="Training runs for every share of the examples that is left out, and for every "
        "length of a random direction.",
    )
    draws: Annotated[int, bounds.Validation.draws] = Field(
        default=defaults.Validation.draws,
        description="Draws of weights and minibatches whose exact hypergradients are compared, and "
        "on which an outer step is tried.",
    )
    fractions: list[Annotated[float, bounds.Validation.fractions]] = Field(
        default=list(defaults.Validation.fractions),
        min_length=1,
        max_length=8,
        description="Shares of the training examples that are left out, where each has a weight.",
    )
    radii: list[Annotated[float, bounds.Validation.radii]] = Field(
        default=list(defaults.Validation.radii),
        min_length=1,
        max_length=8,
        description="Lengths of random directions, in outer steps, for all other hyperparameters.",
    )
    seed: Annotated[int, bounds.Validation.seed] = Field(
        default=0, description="Seed of the subsets and of the directions."
    )
