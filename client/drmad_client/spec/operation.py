"""Operation of a job by the service: retries and notifications."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from drmad_client.spec.base import Spec

Address = Annotated[
    str,
    Field(pattern=r"^https?://[^\s/?#@\\]+(/[^\s#]*)?$", max_length=2048),
]
MailAddress = Annotated[
    str,
    Field(pattern=r"^[A-Za-z0-9._%+-]{1,64}@[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)*$", max_length=254),
]
NotifyEvent = Literal["start", "failure", "end"]


class NotifySpec(Spec):
    """What the service notifies whom of. The operator allows hosts and mail domains."""

    events: tuple[NotifyEvent, ...] = Field(
        default=("end",),
        min_length=1,
        max_length=3,
        description="What is notified: start (its first replica runs), failure, end (in whatever "
        "state, a failure too).",
    )
    webhook: Address | None = Field(
        default=None,
        description="Address that receives a signed POST.",
    )
    slack: Address | None = Field(
        default=None,
        description="Incoming webhook of Slack, or of a service that takes its messages, such as "
        "Mattermost, Rocket.Chat or Discord's address with /slack behind it.",
    )
    email: tuple[MailAddress, ...] = Field(
        default=(), max_length=10, description="Mail addresses that receive a message."
    )

    @property
    def wanted(self) -> list[str]:
        """What is sent, as "<event>:<channel>"; an end includes a failure."""
        channels = [name for name in ("webhook", "slack", "email") if getattr(self, name)]
        chosen = set(self.events) - ({"failure"} if "end" in self.events else set())
        return [f"{event}:{channel}" for event in sorted(chosen) for channel in channels]


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
