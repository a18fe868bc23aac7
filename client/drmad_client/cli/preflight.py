"""Prints the report of a preflight, for the commands that run one before a job exists."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from drmad_client.cli import options
from drmad_client.cli.output.terminal import echo

if TYPE_CHECKING:
    from drmad_client.records.job import PreflightReport
    from drmad_client.spec.side_runs.preflight import PreflightSpec


def print_report(
    report: PreflightReport, preflight: PreflightSpec, warnings: Sequence[str] = ()
) -> None:
    """
    Args:
        warnings: what else speaks against the job, a sentence each.
    Raises:
        DrmadError: a proof failed that the job does not override.
    """
    from drmad_client.cli.output.tables import preflight_lines, proofs_table
    from drmad_client.errors import DrmadError

    for line in preflight_lines(report):
        echo(line)
    if not report.proofs:
        for warning in report.warnings(preflight):
            echo(warning)
    if report.proofs:
        options.print_table(proofs_table(report, preflight))
    if refusal := report.refusal(preflight):
        raise DrmadError(refusal)
    for warning in warnings:
        echo(warning)
    if not (report.failed or report.doubts() or report.model_refusal or warnings):
        echo("no problems found")
