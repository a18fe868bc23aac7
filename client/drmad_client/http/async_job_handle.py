"""A handle of one job: the operations of `client.jobs` without the id."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from drmad_client.files.influence_scores import InfluenceScores
from drmad_client.http.job_view import History, JobView
from drmad_client.http.protocol import calls
from drmad_client.http.running.async_flow_runner import AsyncFlowRunner
from drmad_client.http.running.progress_bar import bar, side_run_bar
from drmad_client.records.events import Event, LogLine
from drmad_client.records.job import JobRecord
from drmad_client.records.search import Trial
from drmad_client.records.side_runs.attribution import AttributionReport
from drmad_client.records.side_runs.retraining import Retraining
from drmad_client.records.side_runs.validation import Validation, ValidationReport
from drmad_client.spec.side_runs.retraining import RetrainingSpec
from drmad_client.spec.side_runs.validation import ValidationSpec

if TYPE_CHECKING:
    from drmad_client.http.protocol.array_answer import NamedArrays


class AsyncJob(JobView):
    """A job of a service, from an `AsyncClient`.

    The handle holds the record of the job as of the last request that fetched it: the one that
    created the handle, `reload`, `wait` or a control request.
    """

    def __init__(self, runner: AsyncFlowRunner, record: JobRecord) -> None:
        super().__init__(record)
        self._runner = runner

    async def reload(self) -> Self:
        """Fetch the current state of the job."""
        return await self._update(calls.retrieve(self.id))

    async def wait(self, timeout_s: float | None = None, progress: bool = True) -> Self:
        """Wait until the job has succeeded, and pass its warnings on as `JobWarning`, each once.

        Args:
            timeout_s: Bounds the wait, in seconds, with a resolution of one second.
            progress: Show a progress bar in a terminal or a notebook.
        Raises:
            JobFailed: The job failed or was cancelled; the exception holds its error and the
                trailing log lines.
            WaitTimeout: The job has not ended within `timeout_s` seconds.
        """
        with bar(self.record, shown=progress) as show:

            def update(record: JobRecord) -> None:
                self.record = record
                show(record)

            try:
                await self._runner.run(self._runner.flows.wait(self.id, timeout_s, update))
            finally:
                self._pass_warnings_on()
        return self

    def stream(self, after: str | None = None) -> AsyncIterator[Event]:
        """Iterate over the past and future events of the job until it has ended.

        See `AsyncJobs.events`.
        """
        return self._runner.iterate(self._runner.flows.events(self.id, after))

    def logs(
        self, replica: int | None = None, *, after: str | None = None, follow: bool = False
    ) -> AsyncIterator[LogLine]:
        """Iterate over the lines that the replicas printed; with `follow`, until the job has ended.

        See `AsyncJobs.logs`.
        """
        return self._runner.iterate(self._runner.flows.logs(self.id, replica, after, follow))

    async def history(self) -> History:
        """Fetch all committed meta-iterations; `.to_pandas()` turns them into a table."""
        return History(await self._runner.run(self._runner.flows.history(self.id)))

    async def trials(self) -> list[Trial]:
        """Fetch the trials of the job's search."""
        return await self._runner.run(self._runner.flows.trials(self.id))

    async def hyperparameters(
        self, iteration: int | str = "best", raw: bool = False
    ) -> NamedArrays:
        """Fetch the tuned tensors by name.

        Args:
            iteration: best, last or a number.
            raw: Return the values that the outer optimizer updates, not those in the user's units.
        """
        return await self._runner.send(
            calls.arrays(self.id, "hyperparameters", iteration, transformed=not raw)
        )

    async def hypergradients(self, iteration: int | str = "last") -> NamedArrays:
        """Fetch the derivatives of the validation loss with respect to the raw hyperparameters."""
        return await self._runner.send(calls.arrays(self.id, "hypergradients", iteration))

    async def model(self, iteration: str = "best") -> NamedArrays:
        """Fetch the weights and buffers of the best or last model, by `state_dict` name.

        Of a model with frozen parameters they are what training changed, such as an adapter.
        `drmad_client.export.pytorch.load_model` loads them into the model that your code builds.
        """
        return await self._runner.send(calls.arrays(self.id, "model", iteration))

    async def attribution(self) -> AttributionReport:
        """Fetch the helpers and the harmers of each query, of a job of kind attribution."""
        return await self._runner.send(calls.attribution(self.id))

    async def scores(self) -> InfluenceScores:
        """Fetch the influence of every training row on every query, of a job of kind attribution.

        `.influence` is a NumPy array, `.to_pandas()` a table, and `.write(path)` a file of
        safetensors, CSV or Parquet.
        """
        return await self._runner.send(calls.influence_scores(self.id))

    async def fidelity(self) -> dict[str, Any]:
        """Fetch the fidelity probes of the job's methods, and the chosen method."""
        return await self._runner.send(calls.part(self.id, "fidelity"))

    async def validate_hypergradient(
        self,
        iteration: int | str = "best",
        *,
        timeout_s: float | None = None,
        progress: bool = True,
        **options: Any,
    ) -> ValidationReport:
        """Retrain on the cluster to see whether the hypergradient predicts it; wait for the report.

        Args:
            iteration: best, last or the number of the meta-iteration that is validated.
            timeout_s: Bounds the wait, in seconds; the validation goes on after it.
            progress: Show a progress bar in a terminal.
            options: Other fields of ValidationSpec, such as changes=100 or draws=8.
        Raises:
            ValidationFailed: The validation failed or was cancelled.
            WaitTimeout: It has not ended within `timeout_s` seconds.
        """
        asked = ValidationSpec.model_validate({"iteration": iteration, **options})
        with side_run_bar("validation", shown=progress) as show:
            flow = self._runner.flows.validate(self.id, asked, timeout_s, show)
            found = await self._runner.run(flow)
        assert found.report is not None
        return found.report

    async def validations(self) -> list[Validation]:
        """Fetch the last validations of the job's hypergradient, the newest first."""
        return (await self._runner.send(calls.validations(self.id))).data

    async def cancel_validation(self, validation_id: str) -> Validation:
        """Cancel a validation that is not finished."""
        return await self._runner.send(calls.cancel_validation(self.id, validation_id))

    async def retrain(
        self,
        *,
        iteration: int | str = "best",
        timeout_s: float | None = None,
        progress: bool = True,
        **options: Any,
    ) -> Retraining:
        """Train from scratch with the tuned hyperparameters, beside the untuned ones; wait for it.

        Both recipes train under the same seeds on the cluster. `.report` has mean and interval of
        every held-out figure, and `retrained_model()` the model of the best seed.

        Args:
            iteration: best, last or the number of the meta-iteration that found them.
            timeout_s: Bounds the wait, in seconds; the retraining goes on after it.
            progress: Show a progress bar in a terminal.
            options: Other fields of RetrainingSpec: seeds, steps, with_validation, threshold,
                drop_lowest, query.
        Raises:
            RetrainingFailed: The retraining failed or was cancelled.
            WaitTimeout: It has not ended within `timeout_s` seconds.
        """
        asked = RetrainingSpec.model_validate({"iteration": iteration, **options})
        with side_run_bar("retraining", shown=progress) as show:
            flow = self._runner.flows.retrain(self.id, asked, timeout_s, show)
            return await self._runner.run(flow)

    async def answer(self, *, timeout_s: float | None = None, progress: bool = True) -> str:
        """Wait for the retraining that the spec asks for at the end of the job.

        `wait` does it too. Returns the line that is the answer, such as "test error 5.1 ± 0.4 % in
        place of 11.1 ± 1.9 %"; empty if no retraining succeeded.

        Raises:
            WaitTimeout: It has not ended within `timeout_s` seconds.
        """
        with side_run_bar("retraining", shown=progress) as show:
            flow = self._runner.flows.answer(self.id, timeout_s, show)
            self.record = await self._runner.run(flow)
        return self.record.answer

    async def retrainings(self) -> list[Retraining]:
        """Fetch the last retrainings of the job, the newest first."""
        return (await self._runner.send(calls.retrainings(self.id))).data

    async def cancel_retraining(self, retraining_id: str) -> Retraining:
        """Cancel a retraining that is not finished."""
        return await self._runner.send(calls.cancel_retraining(self.id, retraining_id))

    async def retrained_model(self, retraining_id: str) -> NamedArrays:
        """Fetch the model of a retraining's best seed, by `state_dict` name; see `model`."""
        return await self._runner.send(calls.retrained_model(self.id, retraining_id))

    async def save_retraining(self, retraining_id: str, folder: Path | str) -> list[Path]:
        """Write report, model and the files of `save_recipe` for the retraining; return the paths.

        The report is retraining.json, and the model model.safetensors, if the service keeps it.
        """
        from drmad_client.export.job_folder import write
        from drmad_client.export.recipe_folder import retraining_files

        found = await self._runner.send(calls.retraining(self.id, retraining_id))
        tuned: NamedArrays = {}
        if found.iteration is not None:
            tuned = await self.hyperparameters(found.iteration)
        files = retraining_files(self.record, found, tuned, await self._code())
        written = write(files, Path(folder))
        if found.model_bytes is not None:
            file = calls.retrained_model_file(self.id, found.id)
            target = Path(folder) / "model.safetensors"
            written.append(await self._runner.run(self._runner.flows.download(file, target)))
        return written + await self._recipe_data(Path(folder))

    async def save_recipe(self, folder: Path | str, iteration: int | str = "best") -> list[Path]:
        """Write the tuned training as plain PyTorch, with its data; return the paths.

        The files are recipe.py, which runs without drmad, hyperparameters.safetensors in the user's
        units, and data.safetensors, which a worker writes as the job reads the data. Own code lies
        in the folder `code`; it reads its data by itself, unless the job gives it an upload.

        Args:
            folder: Where the files go; it need not exist.
            iteration: best, last or the number of the meta-iteration whose values are meant.
        """
        from drmad_client.export.job_folder import write
        from drmad_client.export.recipe_folder import recipe_files

        tuned: NamedArrays = {}
        if self.record.spec.kind == "tuning":
            tuned = await self.hyperparameters(iteration)
        files = recipe_files(self.record, tuned, await self._code())
        return write(files, Path(folder)) + await self._recipe_data(Path(folder))

    async def _code(self) -> bytes | None:
        problem = self.record.spec.problem
        if problem.kind != "code":
            return None
        return await self._runner.send(calls.code(problem.code))

    async def _recipe_data(self, folder: Path) -> list[Path]:
        from drmad_client.export.recipe import reads_data

        if not reads_data(self.record.spec):
            return []
        file, target = calls.recipe_data_file(self.id), folder / "data.safetensors"
        return [await self._runner.run(self._runner.flows.download(file, target))]

    async def figure(self, name: str = "losses") -> Any:
        """Fetch a figure as a plotly.graph_objects.Figure; `figures.FIGURES` lists the names.

        Raises:
            ImportError: plotly is not installed.
        """
        from drmad_client.plots.figures import to_plotly

        return to_plotly(await self._runner.send(calls.part(self.id, f"figures/{name}")))

    async def download_model(self, target: Path | str, iteration: str = "best") -> Path:
        """Write the best or last model to a safetensors file; see `AsyncJobs.download_model`."""
        file = calls.model_file(self.id, iteration)
        return await self._runner.run(self._runner.flows.download(file, Path(target)))

    async def save(self, folder: Path | str, iteration: int | str = "best") -> list[Path]:
        """Write hyperparameters, model, history and spec to files; return their paths.

        See `AsyncJobs.save`.
        """
        return await self._runner.run(self._runner.flows.save(self.id, Path(folder), iteration))

    async def update(
        self,
        *,
        name: str | None = None,
        note: str | None = None,
        tags: Mapping[str, str | None] | None = None,
        archived: bool | None = None,
    ) -> Self:
        """Change the labels of the job, which have no influence on its results.

        See `AsyncJobs.update`.
        """
        return await self._update(calls.label(self.id, calls.labels(name, note, tags, archived)))

    async def pause(self) -> Self:
        """Ask the job to stop after the running meta-iteration and release its resources."""
        return await self._update(calls.act(self.id, "pause"))

    async def resume(self) -> Self:
        """Continue the paused job from its last committed meta-iteration."""
        return await self._update(calls.act(self.id, "resume"))

    async def cancel(self) -> Self:
        """Ask the job to stop now; its committed meta-iterations stay."""
        return await self._update(calls.act(self.id, "cancel"))

    async def extend(self, iterations: int) -> Self:
        """Continue the job, which has ended, for `iterations` more meta-iterations."""
        return await self._update(calls.act(self.id, "extend", {"iterations": iterations}))

    async def fork(
        self, iteration: int | None = None, changes: Mapping[str, Any] | None = None
    ) -> AsyncJob:
        """Create a job that starts from the state before a meta-iteration of this job.

        Args:
            iteration: The meta-iteration whose initial state the new job starts from; by default
                the best one of this record.
            changes: Parts of the spec to change, as in {"meta": {"learning_rate": 0.1}}.
        """
        call = calls.fork(self.id, self._or_best(iteration), changes)
        return AsyncJob(self._runner, await self._runner.send(call))

    async def delete(self) -> None:
        """Delete the job, which has ended, with its history and its results."""
        await self._runner.send(calls.delete(self.id))

    async def _update(self, call: calls.Call[JobRecord]) -> Self:
        self.record = await self._runner.send(call)
        return self
