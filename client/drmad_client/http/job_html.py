"""A job as HTML, for notebooks."""

from __future__ import annotations

from html import escape

from drmad_client.records.job import JobRecord
from drmad_client.records.verdict import best_figures, confirmation


def as_html(job: JobRecord, packed: str = "") -> str:
    """The job as a table in the notebook's own colours; `packed` says what its code is."""
    rows = {
        "job": escape(job.id),
        "status": f"{job.status} <small>{escape(job.message or job.reason)}</small>",
        "progress": progress_as_html(job),
    }
    if packed:
        rows["packed"] = escape(packed)
    if job.best:
        rows["best"] = escape(best_figures(job))
        if holds := confirmation(job):
            rows["best"] += f"<br><small>{escape(holds)}</small>"
    if job.answer:
        rows["retrained"] = escape(job.answer)
    if job.warnings:
        rows["warnings"] = "<br>".join(escape(warning.message) for warning in job.warnings)
    if job.error:
        rows["error"] = f"{escape(job.error.message)} <small>{escape(job.error.code)}</small>"
    cells = "".join(
        f'<tr><th style="text-align:left">{name}</th><td style="text-align:left">{value}</td></tr>'
        for name, value in rows.items()
    )
    return f"<table><caption>{escape(job.name)}</caption>{cells}</table>"


def progress_as_html(job: JobRecord) -> str:
    """The progress of the job as a bar and a count."""
    done, total = job.progress.iteration, job.progress.iterations
    return f'<progress max="{total}" value="{done}"></progress> {done} of {total} meta-iterations'
