"""What notices say: the body of a webhook, the message of a chat, and a mail."""

from __future__ import annotations

import json
from email.message import EmailMessage
from email.utils import formatdate, make_msgid

from drmad_client.records.job import JobRecord
from drmad_client.records.verdict import best_figures
from drmad_service.store.access.notices import Event

_TYPES = {"start": "job.started", "end": "job.ended"}
_LONGEST = 2000


def webhook_body(job: JobRecord, event: Event = "end") -> bytes:
    """The body of the signed notice."""
    fields = job.model_dump(
        mode="json",
        include={
            "id", "name", "tenant", "status", "reason", "message", "finished_at", "progress",
            "best", "answer", "error", "tags",
        },
    )  # fmt: skip
    return json.dumps({"type": _TYPES[event], "job": fields}).encode()


def headline(job: JobRecord, event: Event) -> str:
    """One line that says what became of the job."""
    if event == "start":
        return f"Job {job.name} has started"
    done = job.progress
    return f"Job {job.name} {_ENDS[job.status]} after {done.iteration} of {done.iterations} " + (
        "windows" if job.spec.meta.mode == "online" else "meta-iterations"
    )


_ENDS = {"succeeded": "succeeded", "failed": "failed", "cancelled": "was cancelled"}


def details(job: JobRecord, event: Event) -> list[str]:
    """Further lines: the result or the cause, and where to read on."""
    if event == "start":
        return []
    lines = []
    if job.error is not None:
        lines.append(job.error.message[:_LONGEST])
    elif job.best is not None:
        lines.append(f"best: {best_figures(job)}")
    if job.answer:
        lines.append(f"retrained: {job.answer}")
    return lines


def slack_body(job: JobRecord, event: Event, public_url: str) -> bytes:
    """A message for an incoming webhook of Slack; text of users mentions nobody."""
    lines = [_escaped(line) for line in (headline(job, event), *details(job, event))]
    lines.append(f"<{_link(job, public_url)}|{job.id}>" if public_url else job.id)
    return json.dumps({"text": "\n".join(lines)}).encode()


def mail(
    job: JobRecord, event: Event, sender: str, recipients: list[str], public_url: str
) -> EmailMessage:
    message = EmailMessage()
    message["From"], message["To"] = sender, ", ".join(recipients)
    message["Subject"] = " ".join(headline(job, event).split())  # a header is one line
    message["Date"] = formatdate()
    message["Message-ID"] = make_msgid(domain=sender.rpartition("@")[2] or "localhost")
    message["Auto-Submitted"] = "auto-generated"
    where = _link(job, public_url) if public_url else f"drmad show {job.id}"
    message.set_content("\n".join([headline(job, event), *details(job, event), "", where, ""]))
    return message


def _link(job: JobRecord, public_url: str) -> str:
    return f"{public_url.rstrip('/')}/jobs/{job.id}"


def _escaped(text: str) -> str:
    """Slack's three characters of control: a name of a job mentions nobody and forges no link."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
