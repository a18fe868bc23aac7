"""A job as HTML, for notebooks."""

from __future__ import annotations

from html import escape

from drmad_client.records.job import JobRecord


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
        figures = {"validation loss": job.best.validation_loss} | job.best.metrics
        shown = ", ".join(
            f"{escape(name).replace('_', ' ')} "
            + (f"{value:.2%}" if name.endswith(("error", "accuracy")) else f"{value:.4g}")
            for name, value in figures.items()
        )
        rows["best"] = f"iteration {job.best.iteration}: {shown}"
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
