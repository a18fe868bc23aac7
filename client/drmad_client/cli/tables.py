"""Jobs and what belongs to them as tables of a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from drmad_client.durations import duration
from drmad_client.records.job import JobRecord, JobStatus, MetaIteration, PreflightReport, Trial

if TYPE_CHECKING:
    from drmad_client.export.comparison import Difference
    from drmad_client.http.protocol.array_answer import NamedArrays
    from drmad_client.records.cluster import Cluster

_COLOURS = {
    JobStatus.SUCCEEDED: "green",
    JobStatus.FAILED: "red",
    JobStatus.CANCELLED: "yellow",
    JobStatus.CANCELLING: "yellow",
    JobStatus.PAUSING: "yellow",
    JobStatus.PAUSED: "yellow",
    JobStatus.RUNNING: "cyan",
}
_HISTORY = ("iteration", "valid. loss", "valid. error", "test error", "hypergradient", "seconds")
HISTORY_HEADING = "  ".join(_HISTORY)


def job_facts(job: JobRecord) -> RenderableType:
    """All there is to say about one job."""
    fields = Table.grid(padding=(0, 2))
    fields.add_column(style="bold", no_wrap=True)
    fields.add_column(overflow="fold")
    for name, value in _facts(job):
        fields.add_row(name, value)
    return fields


def jobs_table(jobs: Iterable[JobRecord]) -> RenderableType:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("ID", no_wrap=True, min_width=30)
    table.add_column("NAME", overflow="ellipsis", no_wrap=True)
    table.add_column("STATUS", no_wrap=True)
    table.add_column("DONE", no_wrap=True, justify="right")
    table.add_column("BEST LOSS", no_wrap=True, justify="right")
    table.add_column("CREATED", no_wrap=True, justify="right")
    for job in jobs:
        table.add_row(
            job.id,
            Text(job.name),
            status_text(job.status),
            f"{job.progress.iteration}/{job.progress.iterations}",
            f"{job.best.validation_loss:.5g}" if job.best else "–",
            f"{duration((datetime.now(UTC) - job.created_at).total_seconds())} ago",
        )
    return table if table.row_count else Text("no jobs")


def history_table(records: Iterable[MetaIteration]) -> RenderableType:
    lines = [
        Text(history_line(record)).append("  best" if record.is_best else "", "green")
        for record in records
    ]
    return Group(Text(HISTORY_HEADING, "bold"), *lines) if lines else Text("no meta-iterations")


def preflight_lines(report: PreflightReport) -> Iterable[str]:
    """What a check found."""
    for name, sizes in report.hyperparameters.items():
        yield f"hyperparameter {name}: {' × '.join(map(str, sizes)) or 'one number'}"
    yield (
        f"one meta-iteration of {report.steps} steps: {report.seconds:.1f} s, validation loss "
        f"{report.validation_loss:.5g}, training loss {report.training_loss:.5g}"
    )
    cosines = ", ".join(
        f"{method} {'diverged' if cosine is None else f'{cosine:.3f}'}"
        for method, cosine in report.fidelity.items()
    )
    yield f"cosine to the exact hypergradient over these steps: {cosines or 'exact'}"
    yield f"the whole job on a machine like this: {predicted_words(report)}"
    yield "no fault was found"


def predicted_words(report: PreflightReport) -> str:
    """What a job will take."""
    seconds, megabytes = report.job_seconds, report.memory_bytes / 1e6
    return f"about {duration(seconds)}, {megabytes:.0f} MB a replica"


def trials_table(trials: Iterable[Trial], best: int | None = None) -> RenderableType:
    lines = [
        Text(trial_line(trial)).append("  best" if trial.number == best else "", "green")
        for trial in trials
    ]
    return Group(*lines) if lines else Text("no trials")


def trial_line(trial: Trial) -> str:
    """What a trial tried, and what came of it."""
    values = ", ".join(f"{path} = {_word(value)}" for path, value in trial.values.items())
    loss = trial.validation_loss
    outcome = f"{loss:.5f}" if loss is not None else f"{trial.state}, {trial.message}"
    return f"trial {trial.number}: {outcome}  ({values})"


def history_line(record: MetaIteration) -> str:
    """A meta-iteration under HISTORY_HEADING."""
    cells = (
        str(record.iteration),
        f"{record.validation_loss:.5f}",
        _percent(record.metrics.get("validation_error")),
        _percent(record.metrics.get("test_error")),
        f"{record.hypergradient_norm:.3g}",
        f"{record.seconds['total']:.2f}" if "total" in record.seconds else "–",
    )
    return "  ".join(f"{cell:>{len(head)}}" for cell, head in zip(cells, _HISTORY, strict=True))


def catalog_table(offered: Mapping[str, Any]) -> RenderableType:
    table = _table("WHAT", "NAME", "OPTIONS", "DESCRIPTION")
    for what in ("models", "data", "hyperparameters", "methods"):
        for entry in offered.get(what, ()):
            table.add_row(what, entry["name"], ", ".join(entry["options"]), entry["description"])
    return table


def cluster_table(cluster: Cluster) -> RenderableType:
    nodes = _table("NODE", "ADDRESS", "CPUS", "GPUS", "")
    for view in cluster.schedulers:
        for node in view.nodes:
            gpus = f"{node.gpus:g} {node.gpu_kind}".rstrip()
            state = "" if node.alive else "gone"
            nodes.add_row(node.name, node.address, f"{node.cpus:g}", gpus, state)
    places = _table("ID", "NAME", "STATUS", "CPUS", "GPUS", "")
    for place in [*cluster.running, *cluster.queue]:
        places.add_row(
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
    return Group(nodes, "", reserved, "", places if places.row_count else Text("no jobs"))


def differences_table(
    one: JobRecord, other: JobRecord, differences: Iterable[Difference]
) -> RenderableType:
    table = _table("", one.id, other.id)
    for difference in differences:
        table.add_row(
            difference["what"], *(_word(difference[side]) for side in ("first", "second"))
        )
    return table if table.row_count else Text("no difference")


def arrays_table(arrays: NamedArrays) -> RenderableType:
    import numpy as np

    table = _table("NAME", "SHAPE", "MINIMUM", "MEDIAN", "MAXIMUM")
    for name, values in arrays.items():
        figures = (values.min(), np.median(values), values.max()) if values.size else ()
        shape = " × ".join(map(str, values.shape)) or "one number"
        table.add_row(name, shape, *(f"{figure:.5g}" for figure in figures))
    return table


def fidelity_table(measured: Mapping[str, Any]) -> RenderableType:
    from drmad_client.plots.fidelity import cost_label, last_probe, method_labels

    found, chosen = last_probe(measured)
    if not found:
        failure = (measured.get("report") or {}).get("failure")
        return Text(failure or "no method was measured: this one is exact")
    table = _table("METHOD", "COSINE", "SIGNS", "LENGTH", "COST", "")
    for figure, words in zip(found, method_labels(f["method"] for f in found), strict=True):
        shares = [figure.get(name) for name in ("cosine", "signs", "length")]
        table.add_row(
            Text(", ".join(words)),
            *("diverged" if share is None else f"{share:.3f}" for share in shares),
            cost_label(figure["cost"]),
            "chosen" if figure["method"] == chosen else "",
        )
    return Group(
        table, "", "Against the exact hypergradient: 1 is perfect. --output yaml has more."
    )


def _facts(job: JobRecord) -> Iterable[tuple[str, RenderableType]]:
    yield "job", job.id
    yield "name", Text(job.name)
    yield "status", status_text(job.status).append(f"  {job.message or job.reason}", "")
    yield "created", f"{job.created_at:%Y-%m-%d %H:%M:%S} UTC"
    if job.started_at:
        end = job.finished_at or datetime.now(UTC)
        yield "took", duration((end - job.started_at).total_seconds())
    yield "done", f"{job.progress.iteration} of {job.progress.iterations} meta-iterations"
    if job.spec.search is not None:
        yield "search", Text(_search_words(job))
    if job.preflight:
        yield "predicted", predicted_words(job.preflight)
    if job.best:
        yield "best", best_words(job)
    if job.error:
        yield "error", Text(f"{job.error.message}  [{job.error.code}]", "red")
    if job.hyperparameters:
        lines = [
            f"{h.name}: {h.kind}, {' × '.join(map(str, h.shape)) or 'one number'}, {h.transform}"
            for h in job.hyperparameters
        ]
        yield "tuned", Group(*map(Text, lines))
    if job.tags:
        yield "tags", Text(", ".join(f"{key}:{value}" for key, value in job.tags.items()))


def _search_words(job: JobRecord) -> str:
    assert job.spec.search is not None
    words = f"{job.progress.trials} of {job.spec.search.trials} trials"
    if job.start is None:
        return words
    values = ", ".join(f"{path} = {_word(value)}" for path, value in job.start.values.items())
    loss = job.start.validation_loss
    return f"{words}, best {job.start.trial} with validation loss {loss:.5g}: {values}"


def best_words(job: JobRecord, *, errors_only: bool = False) -> str:
    if job.best is None:
        return "–"
    figures = [f"validation loss {job.best.validation_loss:.5g}"]
    figures += [
        f"{name.replace('_', ' ')} {_percent(value) if name.endswith('error') else f'{value:.5g}'}"
        for name, value in job.best.metrics.items()
        if name.endswith("error") or not errors_only
    ]
    return f"iteration {job.best.iteration}, {', '.join(figures)}"


def status_text(status: JobStatus) -> Text:
    # The colour is a span of its own, so that what is appended stays plain.
    return Text().append(status.value, _COLOURS.get(status, ""))


def _table(*headings: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in headings:
        table.add_column(Text(heading), overflow="fold")
    return table


def _word(value: Any) -> Text:
    return Text(
        "–" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)
    )


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.2f} %"
