"""What follows from a failed proof of a job's preflight."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from drmad_client.spec.base import Spec

ProofName = Literal["repeatable", "training", "second_derivatives", "hypergradient", "unchanged"]
"""The proofs in the order in which they run, which is the order of their cost."""


class PreflightSpec(Spec):
    """What follows from a failed proof of the preflight; without an override the job fails."""

    override: list[ProofName] = Field(
        default=[],
        description="Proofs whose failure does not prevent the job from starting; the job and "
        "each of its meta-iterations then carry a warning.",
    )
