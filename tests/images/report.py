"""The summary of a run: what was claimed, what was seen, and how long it took."""

from __future__ import annotations

import contextlib
import os
import platform
import subprocess
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from tests.deploy.containers import ROOT


@dataclass
class Step:
    """One claim of the documentation; `seen` is what shows it."""

    claim: str
    seen: str = ""
    seconds: float = 0.0


@dataclass
class Image:
    name: str
    megabytes: float
    packages: int
    build_s: float


@dataclass
class Report:
    engine: str = ""
    bases: str = ""
    steps: list[Step] = field(default_factory=list)
    images: list[Image] = field(default_factory=list)
    _begun: float = field(default_factory=time.monotonic)

    @property
    def failed(self) -> int:
        return sum("**failed**" in step.seen for step in self.steps)

    @contextlib.contextmanager
    def step(self, claim: str, needed: bool = False) -> Iterator[Step]:
        """Records what its block sees. The next steps follow a failure, except of a needed one."""
        step, begun = Step(claim), time.monotonic()
        print(f"{datetime.now():%H:%M:%S} {claim} ...", flush=True)
        try:
            yield step
        except Exception as error:
            step.seen = f"**failed**: {type(error).__name__}"
            traceback.print_exc()
            if needed:
                raise
        finally:
            step.seconds = time.monotonic() - begun
            self.steps.append(step)
            print(f"    {step.seen} ({step.seconds:.0f} s)", flush=True)

    def write(self, path: Path) -> None:
        commit = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True
        ).stdout.strip()
        minutes = (time.monotonic() - self._begun) / 60
        lines = [
            "# Images and compose, run for real",
            "",
            "`make test-images` builds every image for the CPU from `deploy/Dockerfile`, starts "
            "`docker-compose.yml`, and follows [the operator's page](../how-to/deploy.md).",
            "It writes this page. The image for GPUs is read and linted, and was not built.",
            "",
            f"Run of {datetime.now(UTC):%Y-%m-%d} at commit `{commit}`: {len(self.steps)} steps, "
            f"{self.failed} failed, {minutes:.0f} minutes, on {os.cpu_count()} cores "
            f"(load {os.getloadavg()[2]:.1f}) under Linux {platform.release().split('-')[0]}.",
            f"Engine: {self.engine}. Base images: {self.bases}.",
            "",
            "| image | MB | Python packages | built in |",
            "|---|---:|---:|---:|",
            *(
                f"| {image.name} | {image.megabytes:,.0f} | {image.packages} | "
                f"{image.build_s:.0f} s |"
                for image in self.images
            ),
            "",
            "| claim | seen | seconds |",
            "|---|---|---:|",
            *(f"| {step.claim} | {step.seen} | {step.seconds:.0f} |" for step in self.steps),
            "",
        ]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(lines))
