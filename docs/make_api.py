"""Writes api.md from the docstrings of the client: python docs/make_api.py."""

from __future__ import annotations

import inspect
import re
from enum import StrEnum
from pathlib import Path
from textwrap import indent
from typing import Any

from drmad_client import errors
from drmad_client.export import pytorch
from drmad_client.http import (
    async_client,
    client,
    job_handle,
    job_view,
    jobs,
    uploads,
)
from drmad_client.plots import figures
from drmad_client.records import (
    cluster,
    events,
    hyperparameters,
    job,
    meta_iteration,
    search,
    status,
)

PAGES: list[tuple[str, str, list[Any]]] = [
    ("Clients", "`from drmad_client import Client, AsyncClient`", [client.Client, jobs.Jobs]),
    (
        "Uploads",
        "`client.code`, `client.data`: sent once, named by the digest of their bytes.",
        [uploads.CodeUploads, uploads.DataUploads],
    ),
    (
        "A job",
        "`job = client.jobs.retrieve(job_id)`",
        [job_handle.Job, job_view.History, jobs.JobPage],
    ),
    (
        "asyncio",
        "`AsyncClient`, `AsyncJobs` and `AsyncJob` have the methods of `Client`, `Jobs` and `Job`: "
        "`await` them, and read iterators and pages with `async for`.",
        [async_client.AsyncClient],
    ),
    (
        "Records",
        "The modules of `drmad_client.records`",
        [
            job.JobRecord,
            status.JobStatus,
            job.Progress,
            job.Best,
            job.JobError,
            meta_iteration.MetaIteration,
            hyperparameters.HyperparameterSummary,
            meta_iteration.ReplicaFigures,
            meta_iteration.Arrival,
            search.Trial,
            search.Start,
            job.PreflightReport,
            events.Event,
            events.LogLine,
            cluster.Cluster,
        ],
    ),
    (
        "Using the result",
        "`from drmad_client.export import pytorch`",
        [
            pytorch.state_dict,
            pytorch.penalties,
            pytorch.penalty,
            pytorch.parameter_groups,
            pytorch.WeightedExamples,
            pytorch.sampler,
            pytorch.schedule,
            pytorch.scale_weights,
            pytorch.TunedSGD,
        ],
    ),
    (
        "Figures",
        "`from drmad_client.plots import figures`",
        [
            figures.losses,
            figures.hyperparameters,
            figures.layers,
            figures.penalty_image,
            figures.schedules,
            figures.hypergradient_norms,
            figures.cosines,
            figures.seconds,
            figures.memory,
            figures.fidelity,
            figures.trials,
            figures.staleness,
            figures.movers,
            figures.draw,
            figures.save,
            figures.to_plotly,
        ],
    ),
]


def page() -> str:
    parts = ["# API reference of the client", "Written by `docs/make_api.py` from the docstrings."]
    for title, note, things in PAGES:
        parts += [f"## {title}", note]
        for thing in things:
            parts += list(_described(thing))
    parts += ["## Exceptions", "`from drmad_client import errors`"]
    parts += [f"```\n{inspect.cleandoc(errors.__doc__ or '').partition(chr(10) * 2)[2]}\n```"]
    return "\n\n".join(parts) + "\n"


def _described(thing: Any) -> list[str]:
    if not inspect.isclass(thing):
        return [f"### {thing.__name__}", f"`{thing.__name__}{_signature(thing)}`", _text(thing)]
    fields = getattr(thing, "model_fields", None)
    if fields is not None:
        lines = [
            f"- `{name}`: {_type(f.annotation)}{'. ' + f.description if f.description else ''}"
            for name, f in fields.items()
        ]
        return [f"### {thing.__name__}", _text(thing), "\n".join(lines)]
    if issubclass(thing, StrEnum):
        return [f"### {thing.__name__}", _text(thing), ", ".join(f"`{m}`" for m in thing)]
    parts = [f"### {thing.__name__}"]
    own = _signature(thing.__init__) if "__init__" in vars(thing) else "()"
    if not re.match(r"\((runner|data):", own) and own != "()":  # else the client makes it
        parts.append(f"`{thing.__name__}{own.partition(' ->')[0]}`")
    lines = [
        f"- `{name}{_signature(member)}`  \n{indent(_text(member), '  ')}"
        for name, member in vars(thing).items()
        if inspect.isfunction(member) and not name.startswith("_") and member.__doc__
    ]
    return [*parts, _text(thing), "\n".join(lines)]


def _signature(thing: Any) -> str:
    text = re.sub(r"\(self(, )?", "(", str(inspect.signature(thing)))
    text = re.sub(r"(: |-> )'([^']*)'", r"\1\2", text)  # annotations are kept as text
    return re.sub(r"<function \S+ at \w+>", "...", text).replace("builtins.", "")


def _type(annotation: Any) -> str:
    text = annotation.__name__ if inspect.isclass(annotation) else str(annotation)
    return "`" + re.sub(r"[\w.]+\.(\w+)", r"\1", text) + "`"


def _text(thing: Any) -> str:
    """The docstring as Markdown: `Args:` and the like become lists."""
    lines: list[str] = []
    in_section = False
    for line in inspect.cleandoc(thing.__doc__ or "").splitlines():
        if re.fullmatch(r"\w+:", line):
            in_section = True
            lines += ["", f"*{line}*", ""]
        elif in_section and (item := re.fullmatch(r"    (\w[\w, ]*): (.*)", line)):
            lines.append(f"- `{item[1]}`: {item[2]}")
        elif in_section and line.startswith("        "):
            lines.append(f"  {line.strip()}")
        else:
            in_section = in_section and not line
            lines.append(line)
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()


if __name__ == "__main__":
    Path(__file__).with_name("reference").joinpath("api.md").write_text(page(), encoding="utf-8")
