"""Groups: the jobs of one submission, over seeds and over a small grid of settings."""

from __future__ import annotations

import copy
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from drmad_client.spec.text import job_file
from drmad_client.spec.text.job_file import BadJobFile

GROUP = "group"
"""The tag that names the group of a job."""
SWEPT = "sweep."
"""Precedes the path of a swept field in the tag that holds its value."""
MOST_JOBS = 100
"""Bounds the jobs of a group."""


def variants(
    spec: Mapping[str, Any], group: str, seeds: int = 1, sweep: Sequence[str] = ()
) -> list[dict[str, Any]]:
    """The specs of a group: every combination of the swept values, each under `seeds` seeds.

    The seeds are that of the spec and those that follow it.

    Args:
        sweep: path=value,value,... as in training.learning_rate=0.01,0.1.
    Raises:
        BadJobFile: a sweep has another form, two sweep one field, or there are too many jobs.
    """
    fields = dict(map(_field, sweep))
    count = seeds
    for values in fields.values():
        count *= len(values)
    if len(fields) != len(sweep) or not 1 <= count <= MOST_JOBS:
        raise BadJobFile(
            f"a group has 1 to {MOST_JOBS} jobs and sweeps each field once, got {count} jobs of "
            f"{seeds} seeds and the fields {', '.join(fields) or 'of the file'}"
        )
    return list(_variants(spec, group, seeds, fields))


def _variants(
    spec: Mapping[str, Any], group: str, seeds: int, fields: Mapping[str, Sequence[str]]
) -> Iterator[dict[str, Any]]:
    first = int(spec.get("seed", 0))
    for values in itertools.product(*fields.values()):
        for seed in range(first, first + seeds):
            job = copy.deepcopy(dict(spec)) | {"seed": seed}
            swept = dict(zip(fields, values, strict=True))
            for path, value in swept.items():
                job_file.assign(job, f"{path}={value}", option="--sweep")
            tags = {GROUP: group, **{SWEPT + path: value for path, value in swept.items()}}
            yield job | {"tags": {**(job.get("tags") or {}), **tags}}


def _field(text: str) -> tuple[str, list[str]]:
    path, equals, values = text.partition("=")
    # A comma inside brackets belongs to the value.
    parts = re.findall(r"(?:[^,\[\]{}]|\[[^\]]*\]|\{[^}]*\})+", values)
    if not equals or not path or not parts:
        raise BadJobFile(
            f"--sweep takes path=value,value, as in training.learning_rate=0.01,0.1, got {text!r}"
        )
    return path, [part.strip() for part in parts]
