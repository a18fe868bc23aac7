"""Job files: reading one, and changing its fields from the command line."""

from __future__ import annotations

import json
import re
import sys
from importlib import resources
from pathlib import Path
from typing import Any

from drmad_client.errors import UsageError

_PATH = re.compile(r"[\w-]+(\.[\w-]+|\[\d+\])*")


class BadJobFile(UsageError):
    """The file is not a job file, or a change does not apply to it."""


def read(path: Path) -> dict[str, Any]:
    """The fields of the job in a YAML or JSON file, before validation.

    The path - reads YAML from standard input.

    Raises:
        BadJobFile: the file cannot be read, or is not UTF-8, YAML or JSON, or holds no fields.
    """
    import yaml

    from drmad_client.spec.text import json_text, yaml_text

    try:
        text = sys.stdin.read() if str(path) == "-" else path.read_text(encoding="utf-8")
        job = json_text.load(text) if path.suffix == ".json" else yaml_text.load(text)
    except OSError as error:
        raise BadJobFile(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise BadJobFile(f"{path} must be UTF-8 text, and byte {error.start} is not") from error
    except json.JSONDecodeError as error:
        raise BadJobFile(f"{path}, line {error.lineno}: {error.msg}") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        raise BadJobFile(f"{path}{where}: {getattr(error, 'problem', None) or error}") from error
    if not isinstance(job, dict):
        raise BadJobFile(
            f"{path} must hold the fields of a job, such as `problem:`, got {_kind(job)}"
        )
    return job


def assign(job: dict[str, Any], assignment: str, option: str = "--set") -> None:
    """Set one field of `job` in place.

    Args:
        option: what the assignment was given by, for the message of an error.
        assignment: path=value, such as training.steps=200 or hyperparameters[0].init=-6; the value
            is YAML.
    Raises:
        BadJobFile: the assignment has another form, its value is not YAML, or the path does not
            exist in the job.
    """
    import yaml

    from drmad_client.spec.text import yaml_text

    path, equals, text = assignment.partition("=")
    if not equals or not _PATH.fullmatch(path):
        raise BadJobFile(
            f"{option} takes path=value, such as training.steps=200, got {assignment!r}"
        )
    parts = [int(p) if p.isdigit() else p for p in re.findall(r"[\w-]+", path)]
    try:
        value = yaml_text.load(text, parts)
    except yaml.YAMLError as error:
        raise BadJobFile(f"{option} {assignment}: the value must be YAML") from error
    *parents, last = parts
    here: Any = job
    for part in parents:
        here = here.setdefault(part, {}) if isinstance(here, dict) else _item(here, part, path)
    if isinstance(here, dict):
        here[last] = value
    else:
        _item(here, last, path)
        here[last] = value


def write_template(folder: Path, name: str, *, overwrite: bool = False) -> list[Path]:
    """Write the files of a template, a folder of drmad_client/spec/templates; returns their paths.

    Raises:
        BadJobFile: one of them exists, and `overwrite` is false.
    """
    template = resources.files("drmad_client.spec") / "templates" / name
    texts = {
        folder / file.name.removesuffix(".txt"): file.read_text(encoding="utf-8")
        for file in sorted(template.iterdir(), key=lambda file: file.name)
    }
    for path in texts:
        if path.exists() and not overwrite:
            raise BadJobFile(f"{path} exists already; --force overwrites it")
    folder.mkdir(parents=True, exist_ok=True)
    for path, text in texts.items():
        path.write_text(text, encoding="utf-8")
    return list(texts)


def _item(here: Any, part: int | str, path: str) -> Any:
    if not isinstance(here, list) or not isinstance(part, int):
        raise BadJobFile(f"--set {path}: {_kind(here)} has no part {part!r}")
    if part >= len(here):
        raise BadJobFile(
            f"--set {path}: the index [{part}] must be below the length of the list, {len(here)}"
        )
    return here[part]


def _kind(value: Any) -> str:
    names = {dict: "fields", list: "a list", str: "text", type(None): "nothing"}
    return names.get(type(value), repr(value))
