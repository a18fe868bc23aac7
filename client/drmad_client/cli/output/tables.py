"""Jobs, histories, comparisons and the cluster as tables for a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from rich.cells import cell_len, set_cell_size
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from drmad_client.cli.output.terminal import shown
from drmad_client.durations import duration
from drmad_client.records.job import JobRecord, PreflightReport
from drmad_client.records.meta_iteration import MetaIteration
from drmad_client.records.search import Trial
from drmad_client.records.status import JobStatus
from drmad_client.records.verdict import best_figures, confirmation
from drmad_client.spec.side_runs.preflight import PreflightSpec

if TYPE_CHECKING:
    from drmad_client.export.comparison import Difference
    from drmad_client.http.protocol.array_answer import NamedArrays
    from drmad_client.records.group import GroupRow
    from drmad_client.records.service.audit import AuditEntry
from drmad_client.records.service.cluster import Cluster
from drmad_client.records.service.usage import TenantUsage

_COLOURS = {
    JobStatus.SUCCEEDED: "green",
    JobStatus.FAILED: "red",
    JobStatus.CANCELLED: "yellow",
    JobStatus.CANCELLING: "yellow",
    JobStatus.PAUSING: "yellow",
    JobStatus.PAUSED: "yellow",
    JobStatus.RUNNING: "cyan",
}
_RESULT_COLOURS = {"passed": "green", "failed": "red", "skipped": "yellow"}
_HISTORY = ("iteration", "valid. loss", "valid. error", "test error", "hypergradient", "seconds")
HISTORY_HEADING = "  ".join(_HISTORY)


def job_facts(job: JobRecord) -> RenderableType:
    """The state, progress and result of one job, and the proofs of its preflight."""
    fields = Table.grid(padding=(0, 2))
    fields.add_column(style="bold", no_wrap=True)
    fields.add_column(overflow="fold")
    for name, value in _facts(job):
        fields.add_row(name, value)
    if job.preflight is None or not job.preflight.proofs:
        return fields
    return Group(fields, "", proofs_table(job.preflight, job.spec.preflight))


def jobs_table(jobs: Iterable[JobRecord], width: int) -> RenderableType:
    """The list of jobs in a terminal of this width: names give way, every other column stays."""
    headings = ("ID", "NAME", "STATUS", "PROGRESS", "BEST LOSS", "CREATED")
    rows = [
        (
            job.id,
            shown(job.name),
            job.status,
            f"{job.progress.iteration}/{job.progress.iterations}",
            f"{job.best.validation_loss:.5g}" if job.best else "–",
            f"{duration((datetime.now(UTC) - job.created_at).total_seconds(), 1)} ago",
        )
        for job in jobs
    ]
    if not rows:
        return Text("No matching jobs. Submit one with: drmad submit job.yaml")
    gap = 1 if width < 100 else 2
    others = sum(
        max(cell_len(row[column]) for row in (headings, *rows)) + gap
        for column in range(len(headings))
        if column != 1
    )
    room = max(len("NAME"), width - others)
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, gap, 0, 0))
    for column, heading in enumerate(headings):
        table.add_column(heading, no_wrap=True, justify="right" if column > 2 else "left")
    for job_id, name, status, *rest in rows:
        table.add_row(job_id, Text(_middle_out(name, room)), status_text(JobStatus(status)), *rest)
    return table


def _middle_out(text: str, width: int) -> str:
    """The text without its middle where it is wider than `width` cells."""
    if cell_len(text) <= width:
        return text
    half = (width - 1) // 2
    begin, end = set_cell_size(text, width - 1 - half).rstrip(), text[len(text) - half :]
    while cell_len(end) > half:
        end = end[1:]
    return f"{begin}…{end}"


def group_table(rows: Iterable[GroupRow]) -> RenderableType:
    table = _table("SETTING", "JOBS", "SUCCEEDED", "MEAN BEST LOSS", "95 % INTERVAL")
    for row in rows:
        setting = ", ".join(f"{path}={value}" for path, value in row.setting.items())
        between = "–" if row.low is None else f"{row.low:.5g} to {row.high:.5g}"
        mean = "–" if row.mean is None else f"{row.mean:.5g}"
        table.add_row(Text(setting or "–"), str(len(row.jobs)), str(row.succeeded), mean, between)
    return table


def history_table(records: Iterable[MetaIteration]) -> RenderableType:
    lines = [
        Text(history_line(record)).append("  best" if record.is_best else "", "green")
        for record in records
    ]
    return (
        Group(Text(HISTORY_HEADING, "bold"), *lines)
        if lines
        else Text("No meta-iteration is committed yet.")
    )


def preflight_lines(report: PreflightReport) -> Iterable[str]:
    """The results of a preflight, line by line."""
    for name, sizes in report.hyperparameters.items():
        yield f"hyperparameter {name}: {_shape(sizes)}"
    if report.weights:
        yield f"weights: {report.weights}"
    if (model := kept_model(report)) is not None:
        yield f"model: {model}"
    if report.failure is not None:
        yield f"one meta-iteration of {report.steps} steps has no result: {report.failure.message}"
        return
    yield (
        f"one meta-iteration of {report.steps} steps: {report.seconds or 0.0:.1f} s, validation "
        f"loss {report.validation_loss:.5g}, training loss {report.training_loss:.5g}"
    )
    cosines = ", ".join(
        f"{method} {'diverged' if cosine is None else f'{cosine:.3f}'}"
        for method, cosine in report.fidelity.items()
    )
    yield (
        "cosine to the exact hypergradient over these steps: "
        f"{cosines or '1, because the method is exact'}"
    )
    if report.agreement is not None:
        yield (
            "agreement of two draws, the ceiling of every fidelity: cosine "
            f"{report.agreement:.3f} over these steps"
        )
    yield f"predicted for the whole job on this hardware: {prediction(report)}"


def kept_model(report: PreflightReport) -> str | None:
    """The size of the trained model, and whether it is kept; None if it is not known."""
    if report.model_bytes is None:
        return None
    return report.model_refusal or f"{report.model_bytes / 1e6:,.1f} MB are kept"


def proofs_table(report: PreflightReport, preflight: PreflightSpec) -> RenderableType:
    """The proofs of a preflight; the lines below say why one was skipped or overridden."""
    table = _table("PROOF", "RESULT", "WHERE", "REMEDY", "SECONDS")
    for proof in report.proofs:
        table.add_row(
            proof.name,
            Text(proof.result, _RESULT_COLOURS[proof.result]),
            Text(proof.where or ""),
            Text(proof.remedy or ""),
            f"{proof.seconds:.1f}",
        )
    notes = [
        f"{proof.name} was skipped: {proof.detail}"
        for proof in report.proofs
        if proof.result == "skipped"
    ]
    notes += report.warnings(preflight)
    return Group(table, "", *map(Text, notes)) if notes else table


def prediction(report: PreflightReport) -> str:
    """The predicted duration and memory of a job."""
    if report.job_seconds is None or report.memory_bytes is None:
        return "unknown, because the preflight has no result"
    return f"about {duration(report.job_seconds)}, {report.memory_bytes / 1e6:.0f} MB per replica"


def trials_table(trials: Iterable[Trial], best: int | None = None) -> RenderableType:
    lines = [
        Text(trial_line(trial)).append("  best" if trial.number == best else "", "green")
        for trial in trials
    ]
    return Group(*lines) if lines else Text("No trials. A job has trials if its spec has a search.")


def trial_line(trial: Trial) -> str:
    """The number, the loss and the values of a trial."""
    values = ", ".join(f"{path} = {_value(value)}" for path, value in trial.values.items())
    loss = trial.validation_loss
    outcome = f"{loss:.5f}" if loss is not None else f"{trial.state}, {trial.message}"
    return f"trial {trial.number + 1}: {outcome}  ({values})"


def history_line(record: MetaIteration) -> str:
    """A meta-iteration in the columns of HISTORY_HEADING."""
    cells = (
        str(record.iteration + 1),
        f"{record.validation_loss:.5f}",
        _percent(record.metrics.get("validation_error")),
        _percent(record.metrics.get("test_error")),
        f"{record.hypergradient_norm:.3g}",
        f"{record.seconds['total']:.2f}" if "total" in record.seconds else "–",
    )
    return "  ".join(f"{cell:>{len(head)}}" for cell, head in zip(cells, _HISTORY, strict=True))


def catalog_table(offered: Mapping[str, Any]) -> RenderableType:
    table = _table("TYPE", "NAME", "OPTIONS", "DESCRIPTION")
    for what in ("models", "data", "hyperparameters", "methods"):
        for entry in offered.get(what, ()):
            table.add_row(what, entry["name"], ", ".join(entry["options"]), entry["description"])
    return table


def audit_table(entries: Iterable[AuditEntry]) -> RenderableType:
    table = _table("TIME", "BY", "TENANT", "ACTION", "JOB OR KEY", "DETAIL")
    for entry in entries:
        table.add_row(
            f"{entry.at.astimezone():%Y-%m-%d %H:%M:%S}",
            Text(entry.by),
            Text(entry.tenant),
            Text(entry.action),
            entry.job_id or entry.key_id or "",
            Text(entry.detail),
        )
    return table if table.row_count else Text("No entries.")


def usage_table(found: Iterable[TenantUsage]) -> RenderableType:
    table = _table(
        "TENANT", "CPU HOURS", "GPU HOURS", "QUEUED", "JOBS", "REPLICAS", "GPUS", "BYTES"
    )

    def of(value: float, limit: float | None) -> str:
        return f"{value:g}" if limit is None else f"{value:g} of {limit:g}"

    for each in found:
        limits = each.limits
        table.add_row(
            Text(each.tenant),
            f"{each.total.cpu_seconds / 3600:.2f}",
            f"{each.total.gpu_seconds / 3600:.2f}",
            of(each.queued_jobs, limits.queued_jobs),
            of(each.running_jobs, limits.running_jobs),
            of(each.replicas, limits.replicas),
            of(each.gpus, limits.gpus),
            of(each.stored_bytes, limits.stored_bytes),
        )
    return table if table.row_count else Text("Nothing was used yet.")


def cluster_table(cluster: Cluster) -> RenderableType:
    nodes = _table("NODE", "ADDRESS", "CPUS", "GPUS", "STATE")
    for view in cluster.schedulers:
        for node in view.nodes:
            gpus = f"{node.gpus:g} {node.gpu_kind}".rstrip()
            state = "alive" if node.alive else "lost"
            nodes.add_row(node.name, node.address, f"{node.cpus:g}", gpus, state)
    jobs = _table("ID", "NAME", "STATUS", "CPUS", "GPUS", "MESSAGE")
    for place in [*cluster.running, *cluster.queue]:
        jobs.add_row(
            place.id or "",
            Text(place.name if place.id else "another tenant's"),
            status_text(place.status),
            f"{place.cpus:g}",
            f"{place.gpus:g}",
            Text(place.message),
        )
    reserved = (
        f"{cluster.reserved_cpus:g} of {cluster.cpus:g} CPUs and "
        f"{cluster.reserved_gpus:g} of {cluster.gpus:g} GPUs are reserved for jobs"
    )
    return Group(
        nodes, "", reserved, "", jobs if jobs.row_count else Text("No running or queued jobs.")
    )


def differences_table(
    one: JobRecord, other: JobRecord, differences: Iterable[Difference]
) -> RenderableType:
    table = _table("", one.id, other.id)
    for difference in differences:
        table.add_row(
            difference["what"], *(_value(difference[side]) for side in ("first", "second"))
        )
    return table if table.row_count else Text("The jobs do not differ.")


def arrays_table(arrays: NamedArrays) -> RenderableType:
    import numpy as np

    table = _table("NAME", "SHAPE", "MINIMUM", "MEDIAN", "MAXIMUM")
    for name, values in arrays.items():
        figures = (values.min(), np.median(values), values.max()) if values.size else ()
        table.add_row(name, _shape(values.shape), *(f"{figure:.5g}" for figure in figures))
    return table


def fidelity_table(measured: Mapping[str, Any]) -> RenderableType:
    from drmad_client.plots.fidelity import cost_label, last_probe, method_labels

    found, chosen = last_probe(measured)
    if not found:
        failure = (measured.get("report") or {}).get("failure")
        return Text(failure or "No fidelity probe has run yet; an exact method needs none.")
    choices = measured.get("choices") or [{}]
    trial = (choices[-1].get("trial") or {}).get("method")
    looks = [name for name in ("usefulness", "gain") if any(f.get(name) for f in found)]
    headings = [{"usefulness": "OTHER DRAW", "gain": "GAIN"}[name] for name in looks]
    table = _table("METHOD", "COSINE", "SIGNS", "LENGTH", *headings, "COST", "CHOICE")
    for figure, label in zip(found, method_labels(f["method"] for f in found), strict=True):
        shares = [figure.get(name) for name in ("cosine", "signs", "length")]
        looked = [figure.get(name) for name in looks]
        table.add_row(
            Text(", ".join(label)),
            *("diverged" if share is None else f"{share:.3f}" for share in shares),
            *("" if share is None else f"{share:.3f}" for share in looked),
            cost_label(figure["cost"]),
            {str(chosen): "chosen", str(trial): "on trial"}.get(str(figure["method"]), ""),
        )
    return Group(
        table,
        "",
        "Each column compares with the exact hypergradient, which has 1; OTHER DRAW on another "
        "draw of weights and minibatches, GAIN by what its step gains per training run in "
        "retraining. "
        "--output yaml prints all values."
        if looks
        else "Each column compares with the exact hypergradient, which has 1. "
        "--output yaml prints all values.",
    )


def _facts(job: JobRecord) -> Iterable[tuple[str, RenderableType]]:
    yield "job", job.id
    yield "name", Text(job.name)
    yield "status", status_text(job.status).append(f"  {job.message or job.reason}", "")
    yield "created", f"{job.created_at:%Y-%m-%d %H:%M:%S} UTC"
    if job.started_at:
        end = job.finished_at or datetime.now(UTC)
        yield "duration", duration((end - job.started_at).total_seconds())
    yield "progress", f"{job.progress.iteration} of {job.progress.iterations} meta-iterations"
    if job.spec.search is not None:
        yield "search", Text(_search(job))
    if job.preflight:
        yield "predicted", prediction(job.preflight)
    if job.best:
        yield "best", Text(best_figures(job))
        if holds := confirmation(job):
            yield "", Text(holds)
    if job.answer:
        yield "retrained", Text(job.answer)
    if job.preflight and (model := kept_model(job.preflight)) is not None:
        yield "model", Text(model, "yellow" if job.preflight.model_refusal else "")
    for warning in job.warnings:
        if warning.code == "model_not_kept":
            continue  # the line above says it
        yield "warning", Text(f"{warning.message}  [{warning.code}]", "yellow")
    if job.error:
        yield "error", Text(f"{job.error.message}  [{job.error.code}]", "red")
    if job.hyperparameters:
        lines = [
            f"{h.name}: {h.kind}, {_shape(h.shape)}, {h.transform}" for h in job.hyperparameters
        ]
        yield "tuned", Group(*map(Text, lines))
    if job.tags:
        yield "tags", Text(", ".join(f"{key}:{value}" for key, value in job.tags.items()))
    if job.note:
        yield "note", Text(job.note)
    if job.archived_at:
        yield "archived", f"{job.archived_at:%Y-%m-%d %H:%M:%S} UTC"


def _search(job: JobRecord) -> str:
    assert job.spec.search is not None
    progress = f"{job.progress.trials} of {job.spec.search.trials} trials"
    if job.start is None:
        return progress
    values = ", ".join(f"{path} = {_value(value)}" for path, value in job.start.values.items())
    loss = job.start.validation_loss
    return f"{progress}, best {job.start.trial + 1} with validation loss {loss:.5g}: {values}"


def status_text(status: JobStatus) -> Text:
    # The colour is a span of its own, so text that is appended stays uncoloured.
    return Text().append(status.value, _COLOURS.get(status, ""))


def _table(*headings: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in headings:
        table.add_column(Text(heading), overflow="fold")
    return table


def _shape(sizes: Sequence[int]) -> str:
    return " × ".join(map(str, sizes)) or "scalar"


def _value(value: Any) -> Text:
    return Text(
        "–" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)
    )


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.2f} %"
