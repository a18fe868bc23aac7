"""Sends the notices that are due.

The script that changes a job's state also writes its notices to Redis. Any scheduler sends them, so
they survive the scheduler that ended the job, and no job waits for them. The notice of an end waits
for the retraining that the job asks for there, whose answer it has. Delivery is at least once; the
outcome is an event of the job.
"""

from __future__ import annotations

import asyncio
import logging
from urllib.parse import urlsplit

from redis.exceptions import RedisError

from drmad_client.records.job import JobRecord
from drmad_service.errors import JobNotFound
from drmad_service.scheduling.notifications import texts
from drmad_service.scheduling.notifications.delivery import DeliveryOutcome
from drmad_service.scheduling.notifications.mail import Mail, send
from drmad_service.scheduling.notifications.webhooks import Webhooks, deliver
from drmad_service.store import Store
from drmad_service.store.access.notices import Notice

logger = logging.getLogger(__name__)

ATTEMPTS = 4
_SENDERS = 4


async def keep_sending(
    store: Store, webhooks: Webhooks, mail: Mail = Mail(), public_url: str = ""
) -> None:
    """Send every notice that is due, until cancelled."""
    sender = _Sender(store, webhooks, mail, public_url)
    await asyncio.gather(*(sender.run() for _ in range(_SENDERS)))


class _Sender:
    def __init__(self, store: Store, webhooks: Webhooks, mail: Mail, public_url: str) -> None:
        self._store = store
        self._webhooks = webhooks
        self._mail = mail
        self._public_url = public_url

    async def run(self) -> None:
        # After that another scheduler sends the notice.
        hold_s = 6.0 * max(self._webhooks.timeout_s, self._mail.timeout_s)
        while True:
            notice = None
            try:
                notice = await self._store.next_notice(hold_s)
                if notice is not None:
                    await self._send(notice)
            except RedisError as error:
                logger.warning("could not poll for notices: %s", error)
            if notice is None:
                await asyncio.sleep(self._webhooks.poll_s)

    async def _send(self, notice: Notice) -> None:
        try:
            job = await self._store.get(notice.job_id)
        except JobNotFound:
            return
        host, outcome = await self._attempt(job, notice)
        if outcome.worth_retrying and notice.attempt < ATTEMPTS:
            wait_s = self._webhooks.retry_s * 6.0 ** (notice.attempt - 1)
            await self._store.postpone(notice, wait_s)
            return
        settled = {
            "event": notice.event,
            "channel": notice.channel,
            "host": host,
            "outcome": "delivered" if outcome.delivered else "failed",
            "attempts": notice.attempt,
            "message": outcome.message,
        }
        logger.info("%s: %s", notice.channel, outcome.message, extra={"job_id": notice.job_id})
        await self._store.settle(notice, settled)

    async def _attempt(self, job: JobRecord, notice: Notice) -> tuple[str | None, DeliveryOutcome]:
        """What is told of the address, and the outcome. The rest of an address may hold a token."""
        wanted = job.spec.notify
        if notice.channel == "email":
            recipients = list(wanted.email)
            message = texts.mail(job, notice.event, self._mail.sender, recipients, self._public_url)
            domains = dict.fromkeys(address.rpartition("@")[2] for address in recipients)
            return ", ".join(domains), await send(message, recipients, self._mail)
        if notice.channel == "slack":
            url, body = wanted.slack, texts.slack_body(job, notice.event, self._public_url)
        else:
            url, body = wanted.webhook, texts.webhook_body(job, notice.event)
        return urlsplit(url or "").hostname, await deliver(
            url or "", body, self._webhooks, signed=notice.channel == "webhook"
        )
