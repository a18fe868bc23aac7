"""States between a worker and the scheduler: small ones in the message, large ones as artifacts."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import TypeVar

from drmad_workers.artifacts.artifact import Artifact, ArtifactsDenied, ArtifactStoreFails
from drmad_workers.artifacts.job_artifacts import JobArtifacts, Kept
from drmad_workers.artifacts.store import TRAINING, VECTORS
from drmad_workers.ray_actor.messages import PackedState, PackedTraining, Prepared, StepResult

P = TypeVar("P", PackedState, PackedTraining)


class StateFiles:
    """Reads and keeps the states of one job. The scheduler sees the name of a large one alone."""

    def __init__(self, artifacts: JobArtifacts | None) -> None:
        """Without `artifacts` every state travels in its message."""
        self._artifacts = artifacts
        self._newest: tuple[Artifact, bytes] | None = None

    def read(self, packed: P) -> P:
        """The state with its bytes.

        Raises:
            ArtifactLost, ArtifactDamaged, ArtifactStoreFails
        """
        part = VECTORS if isinstance(packed, PackedState) else TRAINING
        return replace(packed, tensors=self.content(packed.tensors, part))

    def content(self, kept: Kept, part: str = VECTORS) -> bytes:
        """
        Raises:
            ArtifactLost, ArtifactDamaged, ArtifactStoreFails
        """
        if isinstance(kept, bytes):
            return kept
        newest = self._newest  # several methods of one meta-iteration read the same state
        if newest is not None and newest[0] == kept:
            return newest[1]
        if self._artifacts is None:
            raise ArtifactStoreFails("this worker has no artifact store, which has a state")
        content = self._artifacts.read(part, kept)
        if part == VECTORS:
            self._newest = (kept, content)
        return content

    def keep(self, packed: P) -> P:
        """The state as the scheduler gets it.

        Raises:
            ArtifactStoreFails: the store does not take it for a minute.
        """
        part = VECTORS if isinstance(packed, PackedState) else TRAINING
        return replace(packed, tensors=self._kept(packed.tensors, part))

    def prepared(self, prepared: Prepared) -> Prepared:
        return replace(prepared, start=self.keep(prepared.start))

    def step(self, result: StepResult) -> StepResult:
        """
        Raises:
            ArtifactStoreFails: the store does not take the vectors for a minute.
        """
        hypergradient = self._kept(result.hypergradient, VECTORS)
        return replace(result, state=self.keep(result.state), hypergradient=hypergradient)

    def _kept(self, content: Kept, part: str) -> Kept:
        if self._artifacts is None or isinstance(content, Artifact):
            return content
        try:
            kept = self._artifacts.keep_content(part, content)
        except ArtifactsDenied as denied:
            print(f"{denied}; the operator must let the workers write there", file=sys.stderr)
            return content
        if isinstance(kept, Artifact) and part == VECTORS:
            self._newest = (kept, content)
        return kept
