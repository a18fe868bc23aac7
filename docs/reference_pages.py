"""Generates the reference pages of the site: commands, REST, the fields of a job."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import typer
from pydantic.json_schema import models_json_schema
from typer.main import get_command

from drmad_client.cli.main import app as command_line
from drmad_client.records.events import Event
from drmad_client.spec.fork import ExtendSpec, ForkSpec
from drmad_client.spec.job import JobSpec
from drmad_service.api.app import create_app
from drmad_service.settings import ApiSettings

JOB = """# The fields of a job

A job is one `JobSpec`: the same fields in YAML, as JSON over REST and as keyword arguments in
Python. Every field has a default unless this page says *required*.
"""
COMMANDS = """# Command line

`drmad --help` lists the commands; each section below is the help of one command.
"""
REST = """# REST

Requests and answers are JSON; arrays are safetensors. Errors are `application/problem+json` and
name the path of each invalid field. A service shows its own OpenAPI document at `/openapi.json` and
as a page at `/docs`.

| method | path | answer |
|---|---|---|
"""


def job_fields() -> str:
    """Every model of the job's schema as a table of its fields."""
    _, schema = models_json_schema(
        [(model, "validation") for model in (JobSpec, ForkSpec, ExtendSpec)]
    )
    models = schema["$defs"]
    first = ["JobSpec", "TrainingSpec", "MetaSpec"]
    names = first + [name for name in models if name not in first]
    return JOB + "".join(_model(name, models[name]) for name in names)


def _model(name: str, model: dict[str, Any]) -> str:
    lines = [f"\n## {name}\n", model.get("description", ""), "", "| field | type | default | |"]
    lines.append("|---|---|---|---|")
    required = model.get("required", [])
    for field, facts in model.get("properties", {}).items():
        shown = "*required*" if field in required else f"`{facts.get('default')}`"
        shown = "" if "$ref" in str(facts.get("default")) else shown.replace("`{...}`", "")
        if isinstance(facts.get("default"), dict):
            shown = "its own defaults"
        lines.append(
            f"| `{field}` | {_type(facts)} | {shown} | {_cell(facts.get('description', ''))} |"
        )
    return "\n".join(lines) + "\n"


def _type(facts: dict[str, Any]) -> str:
    if "$ref" in facts:
        name = facts["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    for choice in ("anyOf", "oneOf", "allOf"):
        if choice in facts:
            return " or ".join(_type(each) for each in facts[choice])
    if "enum" in facts:
        return " or ".join(f"`{value}`" for value in facts["enum"])
    if "const" in facts:
        return f"`{facts['const']}`"
    if facts.get("type") == "array":
        return f"list of {_type(facts['items'])}" if facts.get("items") else "list"
    bounds = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    limits = ", ".join(f"{sign} {facts[key]:g}" for key, sign in bounds.items() if key in facts)
    return str(facts.get("type", "any")) + (f" ({limits})" if limits else "")


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def commands() -> str:
    """The help of every command, as its terminal shows it without colours."""
    root = get_command(command_line)
    context = root.context_class(root, info_name="drmad")
    return COMMANDS + "".join(_commands(root, context))


def _commands(group: Any, parent: typer.Context) -> Iterator[str]:
    for name in group.list_commands(parent):
        _, command, _ = group.resolve_command(parent, [name])
        if command is None or command.hidden:
            continue
        context = command.context_class(command, info_name=name, parent=parent)
        if hasattr(command, "list_commands"):
            yield f"\n## {context.command_path}\n\n{command.help or ''}\n"
            yield from _commands(command, context)
            continue
        yield f"\n## {context.command_path}\n\n{_prose(command.help or '')}\n\n"
        pieces = " ".join(command.collect_usage_pieces(context))
        yield f"```text\n{context.command_path} {pieces}\n```\n\n"
        options = [p for p in command.params if "--help" not in p.opts]
        if options:
            yield "| option | |\n|---|---|\n"
        for option in options:
            flags = ", ".join(f"`{flag}`" for flag in (*option.opts, *option.secondary_opts))
            variable = f" Variable: `{option.envvar}`." if getattr(option, "envvar", None) else ""
            yield f"| {flags} | {_cell(getattr(option, 'help', None) or '')}{variable} |\n"


def _prose(text: str) -> str:
    """Keeps the paragraphs; shows the examples as a block."""
    prose, mark, examples = text.replace("\b", "").partition("Examples:")
    if not mark:
        return prose
    return f"{prose.strip()}\n\n```text\n{examples.strip(chr(10)).rstrip()}\n```"


def rest() -> str:
    """The paths of the OpenAPI document; its operations' summaries."""
    document = create_app(ApiSettings(redis_url="redis://127.0.0.1")).openapi()  # not connected to
    rows = []
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            text = operation.get("description") or operation.get("summary", "")
            rows.append(f"| {method.upper()} | `{path}` | {_cell(text)} |\n")
    return REST + "".join(rows)


def event_types() -> tuple[str, ...]:
    """The types that a stream of events has, in the order of the record."""
    annotation: Any = Event.model_fields["type"].annotation
    return tuple(annotation.__args__)


PAGES = {
    "reference/command-line.md": commands,
    "reference/rest.md": rest,
    "reference/job.md": job_fields,
}
