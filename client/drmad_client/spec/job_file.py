"""A job written in a file: read, and changed on the command line."""

from __future__ import annotations

import json
import re
import sys
from importlib import resources
from pathlib import Path
from typing import Any

from drmad_client.errors import DrmadError

_PATH = re.compile(r"[\w-]+(\.[\w-]+|\[\d+\])*")


class BadJobFile(DrmadError):
    """The file, or a change to it, cannot be read as a job."""


def read(path: Path) -> dict[str, Any]:
    """The job in a YAML or JSON file, not checked yet; - reads YAML from standard input."""
    import yaml

    from drmad_client.spec import yaml_text

    try:
        text = sys.stdin.read() if str(path) == "-" else path.read_text(encoding="utf-8")
        job = json.loads(text) if path.suffix == ".json" else yaml_text.load(text)
    except OSError as error:
        raise BadJobFile(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise BadJobFile(f"{path} is not UTF-8 text: byte {error.start} is bad") from error
    except json.JSONDecodeError as error:
        raise BadJobFile(f"{path}, line {error.lineno}: {error.msg}") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        raise BadJobFile(f"{path}{where}: {getattr(error, 'problem', None) or error}") from error
    if not isinstance(job, dict):
        raise BadJobFile(f"{path} must hold a job: fields such as `problem:`, got {_kind(job)}")
    return job


def assign(job: dict[str, Any], assignment: str) -> None:
    """Set one field, as in training.steps=200 or hyperparameters[0].init=-6; values are YAML."""
    import yaml

    from drmad_client.spec import yaml_text

    path, equals, text = assignment.partition("=")
    if not equals or not _PATH.fullmatch(path):
        raise BadJobFile(f"--set takes path=value, as in training.steps=200, got {assignment!r}")
    parts = [int(p) if p.isdigit() else p for p in re.findall(r"[\w-]+", path)]
    try:
        value = yaml_text.load(text, parts)
    except yaml.YAMLError as error:
        raise BadJobFile(f"--set {assignment}: the value is not YAML") from error
    *parents, last = parts
    here: Any = job
    for part in parents:
        here = here.setdefault(part, {}) if isinstance(here, dict) else _item(here, part, path)
    if isinstance(here, dict):
        here[last] = value
    else:
        _item(here, last, path)
        here[last] = value


def write_templates(folder: Path, *, overwrite: bool = False) -> list[Path]:
    """Write a job.yaml and a my_problem.py to begin with; returns them.

    Raises:
        BadJobFile: one of them is there already.
    """
    templates = resources.files("drmad_client.spec") / "templates"
    texts = {
        folder / name.removesuffix(".txt"): (templates / name).read_text(encoding="utf-8")
        for name in ("job.yaml", "my_problem.py.txt")
    }
    for path in texts:
        if path.exists() and not overwrite:
            raise BadJobFile(f"{path} is there already; --force writes over it")
    folder.mkdir(parents=True, exist_ok=True)
    for path, text in texts.items():
        path.write_text(text, encoding="utf-8")
    return list(texts)


def _item(here: Any, part: int | str, path: str) -> Any:
    if not isinstance(here, list) or not isinstance(part, int):
        raise BadJobFile(f"--set {path}: {part!r} asks for a part of {_kind(here)}")
    if part >= len(here):
        raise BadJobFile(f"--set {path}: there is no [{part}], the list has {len(here)}")
    return here[part]


def _kind(value: Any) -> str:
    names = {dict: "fields", list: "a list", str: "text", type(None): "nothing"}
    return names.get(type(value), repr(value))
