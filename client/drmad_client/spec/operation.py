"""Operation of a job by the service: retries and notifications."""

from __future__ import annotations

from pydantic import Field

from drmad_client.spec.base import Spec


class NotifySpec(Spec):
    """The address that the service notifies when the job ends."""

    webhook: str | None = Field(
        default=None,
        pattern=r"^https?://[^\s/?#@\\]+(/[^\s#]*)?$",
        max_length=2048,
        description="Address that receives a signed POST when the job ends; the operator allows "
        "its host.",
    )


class RetrySpec(Spec):
    """Limit of the retries after failures of the system; errors of the job are not retried.

    A replica counts as lost when its process or its node is gone, and when it ran out of memory.
    """

    replica_failures: int = Field(
        default=3,
        ge=0,
        le=1000,
        description="Maximum number of losses of a replica in a row, without a committed "
        "meta-iteration between; one more fails the job.",
    )
