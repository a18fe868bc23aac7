"""What the service does for a job beside tuning: retries and notifications."""

from __future__ import annotations

from pydantic import Field

from drmad_client.spec.base import Spec


class NotifySpec(Spec):
    """Who is notified when the job ends."""

    webhook: str | None = Field(
        default=None,
        pattern=r"^https?://[^\s/?#@\\]+(/[^\s#]*)?$",
        max_length=2048,
        description="Address that receives a signed POST when the job ends; the operator allows "
        "its host.",
    )


class RetrySpec(Spec):
    """What the service retries by itself: failures of the system, never errors of the job.

    A replica counts as lost when its process or its node is gone, and when it ran out of memory.
    """

    replica_failures: int = Field(
        default=3,
        ge=0,
        le=1000,
        description="Number of replicas lost in a row, without a committed meta-iteration "
        "between, after which the job fails.",
    )
