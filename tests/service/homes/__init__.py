"""Homes and backups that earlier versions of drmad wrote, named by their schema version."""

from __future__ import annotations

import tarfile
from pathlib import Path

HOMES = Path(__file__).parent
SCHEMA_2 = {
    "shortcut": "job_01M8H5P3D97THC9VDNH7279DQ2",
    "nodes": "job_01M8H5P3DSXHE4ZMGVZ8XFN6KY",
    "auto": "job_01M8H5P3E3R59YP47HZQSK7BXA",
    "rollback": "job_01M8H5P3EC0198BXCX59YW6JCJ",
    "async": "job_01M8H5P3EMX4AGWSFJZ7CEKHCF",
    "search": "job_01M8H5P3EXX53N8F7DJHZZ7HQ9",
    "diverging": "job_01M8H5P3F7QR6JZJQ13C02K7FZ",
    "paused": "job_01M8H5P3FF1GHH87BK7V6VNE18",
    "fork": "job_01M8H5QJE0FZKWG8F2FAS4H5JJ",
}
"""The jobs of schema-2.tgz, by what they show; its backup holds shortcut, rollback and paused."""


def unpack(schema: int, home: Path) -> Path:
    """Unpack the home of a schema version into a new folder."""
    with tarfile.open(HOMES / f"schema-{schema}.tgz") as archive:
        archive.extractall(home, filter="data")
    (home / "redis").chmod(0o700)
    return home
