"""Uploads of a user's code and data: `client.code` and `client.data`."""

from __future__ import annotations

from pathlib import Path

from drmad_client.http.running import asyncio_runtime
from drmad_client.http.running.async_flow_runner import AsyncFlowRunner
from drmad_client.http.upload_body import DataSource, digest_and_body


class AsyncCodeUploads:
    """Uploads of a user's own code: `client.code`."""

    def __init__(self, runner: AsyncFlowRunner) -> None:
        self._runner = runner

    async def upload(self, folder: Path | str) -> str:
        """Pack a folder of your code and upload it, unless the service already has it.

        See `files.code_archive` for the files that are packed.

        Returns:
            The value of problem.code in a spec: sha256:<digits>.
        Raises:
            CodeError: The folder cannot be packed, for instance because it is too large.
        """
        from drmad_client.files.code_archive import pack  # The parser of .gitignore loads slowly.

        archive = await asyncio_runtime.run_in_thread(pack, Path(folder))
        return await self._runner.run(self._runner.flows.upload_code(archive))


class AsyncDataUploads:
    """Uploads of a user's own data: `client.data`."""

    def __init__(self, runner: AsyncFlowRunner) -> None:
        self._runner = runner

    async def upload(self, data: DataSource) -> str:
        """Upload a data set, unless the service already has it.

        A CSV or Parquet file is the data set `table`. Of a file of arrays, a model of the catalog
        needs `inputs` (examples, ...) and `targets` (examples,) with classes 0, 1, ..., or numbers;
        `test_inputs` and `test_targets` hold a separate test set, if there is one. Your own code
        may use any names. Weights are uploaded alike: a state dict as a safetensors file, or the
        arrays of `job.model()`.

        Args:
            data: The path of an npz, safetensors, CSV or Parquet file, or NumPy arrays by name.
        Returns:
            The value of problem.data or problem.weights in a spec: sha256:<digits>.
        Raises:
            DataError: The file does not exist, or holds neither arrays of numbers nor a table.
        """
        sha256, body = await asyncio_runtime.run_in_thread(digest_and_body, data)
        return await self._runner.run(self._runner.flows.upload_data(sha256, body))
