"""The files of a retraining on the user's disk: report, model, tuned values and plain recipe."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from drmad_client.export.recipe import NotPlain, code_files, recipe
from drmad_client.records.job import JobRecord
from drmad_client.records.side_runs.retraining import Retraining

Arrays = Mapping[str, NDArray[Any]]


def retraining_files(
    job: JobRecord, found: Retraining, tuned: Arrays, code: bytes | None = None
) -> dict[str, bytes]:
    """The content of every file by its name.

    retraining.json has the report, hyperparameters.safetensors the tuned values in their own units,
    model.safetensors the model of the best seed (of a model with frozen parameters what training
    changed, such as an adapter alone), and recipe.py the training in plain PyTorch, with the user's
    own modules below `code`. Where the recipe has a part that the file does not state, recipe.py
    says so and is no program.

    Args:
        job: The job that found the hyperparameters.
        found: The retraining.
        tuned: The hyperparameters in the user's units; none of an attribution.
        code: The archive of the user's own code, if the service still has it.
    """
    from safetensors.numpy import save

    files = {
        "retraining.json": found.model_dump_json(indent=2).encode(),
        "hyperparameters.safetensors": save(dict(tuned)),
    }
    try:
        source = recipe(job.begun, found.asked, job.id).encode()
        return files | (code_files(code) if code else {}) | {"recipe.py": source}
    except NotPlain as reason:
        return files | {"recipe.py": f"raise NotImplementedError({str(reason)!r})\n".encode()}
