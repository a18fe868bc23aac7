"""Retrainings with the hyperparameters of jobs, run on workers beside the jobs."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from drmad_client.records.side_runs.retraining import RetrainingReport
from drmad_service.ray_driver.connection import CallFailed
from drmad_service.scheduling.ray_futures import future_of
from drmad_service.scheduling.side_runs.driver import SideRunDriver
from drmad_workers.artifacts.artifact import Artifact
from drmad_workers.artifacts.job_artifacts import Kept


class RetrainingRun(SideRunDriver):
    """One held retraining: both recipes under every seed, on all workers side by side."""

    async def _start(self) -> None:
        job = await self._store.get(self._held.job_id)
        found = await self._store.retraining(self._held.job_id, self._held.id)
        point = None
        self._scores: Any = None
        if found.iteration is not None:
            point = await self._store.state_of(self._held.job_id, found.iteration)
        elif found.asked.leaves_out:
            self._scores = self._driver.put(await self._store.attribution_scores(self._held.job_id))
        self._total = 2 * found.asked.seeds
        self._models: dict[int, Any] = {}
        await self._start_workers(
            "RetrainingWorker", job.begun, found.asked.model_dump_json(), point
        )

    async def _computed(self) -> Mapping[str, Any]:
        await self._run_all(self._begin)
        figures = [self._done[number] for number in range(self._total)]
        judge = self._workers[0]
        answer = await self._answer(future_of(judge.outcome.remote(figures, self._scores)))
        report = RetrainingReport.model_validate(answer)
        outcome: dict[str, Any] = {
            "report": report.model_dump(mode="json"),
            "headline": report.headline,
        }
        model = None if report.best_seed is None else await self._model(2 * report.best_seed + 1)
        if model is not None:
            outcome["model"] = await self._store.put_of_run(self._held, model)
            outcome["model_bytes"] = model.size if isinstance(model, Artifact) else len(model)
        return outcome

    def _begin(self, worker: Any, number: int) -> asyncio.Future[Any]:
        self._drop_all_but_best()
        most_bytes = self._settings.max_model_bytes
        figures, model = worker.train.remote(number, most_bytes, self._scores)
        self._models[number] = model
        return future_of(figures)

    def _drop_all_but_best(self) -> None:
        """Frees the models of the finished runs but the best, which alone is kept at the end."""
        finished = [number for number in self._models if self._done.get(number) is not None]
        best = min(finished, key=lambda number: _rank(number, self._done[number]), default=None)
        for number in finished:
            if number != best:
                del self._models[number]

    async def _model(self, number: int) -> Kept | None:
        """The model of a training run; trained again if it was lost with a worker or scheduler."""
        while True:
            if number not in self._models:
                del self._done[number]
                await self._run_all(self._begin)
            kept = self._workers[0].keep.remote(self._models[number])
            try:
                model: Kept | None = await self._answer(future_of(kept))
                return model
            except CallFailed:
                del self._models[number]


def _rank(number: int, figures: Mapping[str, float]) -> tuple[bool, float, int]:
    """Orders training runs: untuned ones last, then by validation loss, then by seed."""
    return number % 2 == 0, figures.get("validation_loss", 0.0), number
