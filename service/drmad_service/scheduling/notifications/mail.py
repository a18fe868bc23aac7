"""Sends mail through the operator's server, to recipients in domains that the operator allows."""

from __future__ import annotations

import asyncio
import smtplib
import ssl
from email.message import EmailMessage

from pydantic import Field
from pydantic.dataclasses import dataclass

from drmad_service.flags import setting
from drmad_service.scheduling.notifications.delivery import DeliveryOutcome, is_listed

_SMTPS = 465
_TEMPORARY = range(400, 500)


@dataclass(frozen=True)
class Mail:
    """The mail server, and the domains of the recipients."""

    server: str = setting(
        "", "Mail server that sends notifications, as HOST or HOST:PORT; empty sends no mail."
    )
    sender: str = setting("drmad@localhost", "Address from which notifications are sent.")
    domains: tuple[str, ...] = setting(
        (),
        "Domain of mail addresses that jobs may notify, *.example.com for every domain below it; "
        "may be repeated.",
        flag="domain",
    )
    user: str = setting("", "User name at the mail server; empty sends without signing in.")
    plain: bool = setting(False, "Allow mail without TLS between the service and the mail server.")
    password: str = Field(default="", repr=False)
    timeout_s: float = setting(
        20.0, "Maximum duration of one attempt to send a mail, in seconds.", 0.1
    )

    def refusal(self, address: str) -> str | None:
        """The reason why no mail may go to this address; None when it may."""
        domain = address.rpartition("@")[2]
        if is_listed(domain, self.domains):
            return None
        allowed = ", ".join(self.domains) or "none"
        return f"must be of an allowed domain ({allowed}), got {domain}; ask the operator"


async def send(
    message: EmailMessage, recipients: list[str], settings: Mail, tls: ssl.SSLContext | None = None
) -> DeliveryOutcome:
    """Attempt once to send a mail."""
    for address in recipients:
        if refusal := settings.refusal(address):
            return DeliveryOutcome(False, f"the address {refusal}")
    if not settings.server:
        return DeliveryOutcome(False, "the scheduler has no mail server; ask the operator")
    try:
        await asyncio.to_thread(_send, message, recipients, settings, tls)
    except smtplib.SMTPRecipientsRefused as error:
        codes = [code for code, _ in error.recipients.values()]
        said = "; ".join(f"{a}: {c} {_text(t)}" for a, (c, t) in error.recipients.items())
        retry = all(code in _TEMPORARY for code in codes)
        return DeliveryOutcome(False, f"refused {said}"[:300], worth_retrying=retry)
    except smtplib.SMTPResponseException as error:
        said = f"the mail server answered {error.smtp_code} {_text(error.smtp_error)}"[:300]
        return DeliveryOutcome(False, said, worth_retrying=error.smtp_code in _TEMPORARY)
    except smtplib.SMTPNotSupportedError as error:
        advice = "the server offers no TLS or sign-in; --mail-plain sends without TLS"
        return DeliveryOutcome(False, f"{error}: {advice}"[:300])
    except (smtplib.SMTPException, OSError) as error:
        name = type(error).__name__
        return DeliveryOutcome(False, f"{name}: {error}"[:300], worth_retrying=True)
    return DeliveryOutcome(True, "accepted by the mail server")


def _send(
    message: EmailMessage, recipients: list[str], settings: Mail, tls: ssl.SSLContext | None
) -> None:
    host, _, port = settings.server.partition(":")
    number = int(port or 587)
    context = tls or ssl.create_default_context()
    connect = (
        smtplib.SMTP_SSL(host, number, timeout=settings.timeout_s, context=context)
        if number == _SMTPS
        else smtplib.SMTP(host, number, timeout=settings.timeout_s)
    )
    with connect as server:
        if number != _SMTPS and not settings.plain:
            server.starttls(context=context)
        if settings.user:
            server.login(settings.user, settings.password)
        server.send_message(message, settings.sender, recipients)


def _text(said: bytes | str) -> str:
    return said.decode(errors="replace") if isinstance(said, bytes) else said
