"""The files of a recipe on the user's disk, and those of a retraining beside it."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any
from zipfile import ZIP_DEFLATED, ZipFile

from numpy.typing import NDArray

from drmad_client.export.recipe import NotPlain, code_files, recipe
from drmad_client.records.job import JobRecord
from drmad_client.records.side_runs.retraining import Retraining
from drmad_client.spec.side_runs.retraining import RetrainSpec

Arrays = Mapping[str, NDArray[Any]]


def recipe_files(
    job: JobRecord, tuned: Arrays, code: bytes | None = None, asked: RetrainSpec = RetrainSpec()
) -> dict[str, bytes]:
    """The content of every file by its name, but for the data; see `recipe.reads_data`.

    hyperparameters.safetensors has the tuned values in their own units, and recipe.py the training
    in plain PyTorch, with the user's own modules below `code`. Where the recipe has a part that the
    file does not state, recipe.py says so and is no program.

    Args:
        job: The job that found the hyperparameters.
        tuned: The hyperparameters in the user's units; none of an attribution.
        code: The archive of the user's own code, if the service still has it.
        asked: How the recipe trains.
    """
    from safetensors.numpy import save

    files = {"hyperparameters.safetensors": save(dict(tuned))}
    try:
        source = recipe(job.begun, asked, job.id).encode()
        return files | (code_files(code) if code else {}) | {"recipe.py": source}
    except NotPlain as reason:
        return files | {"recipe.py": f"raise NotImplementedError({str(reason)!r})\n".encode()}


def retraining_files(
    job: JobRecord, found: Retraining, tuned: Arrays, code: bytes | None = None
) -> dict[str, bytes]:
    """The files of the retraining's recipe, and its report in retraining.json."""
    report = {"retraining.json": found.model_dump_json(indent=2).encode()}
    return report | recipe_files(job, tuned, code, found.asked)


def zipped(files: Mapping[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with ZipFile(packed, "w", ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return packed.getvalue()
