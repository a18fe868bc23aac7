"""The data of a job as tensors that need none of the catalog, for recipe.py outside of drmad."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from drmad_workers import spec_adapter
from drmad_workers.artifacts.artifact import Artifact
from drmad_workers.artifacts.job_artifacts import JobArtifacts, size_of
from drmad_workers.artifacts.store import RETRAINED
from drmad_workers.catalog.places import Places
from drmad_workers.catalog.sources import tensors_of
from drmad_workers.errors import ProblemError

if TYPE_CHECKING:
    from drmad_client.spec.job import JobSpec
    from drmad_workers.problem import Problem


def recipe_data(spec: JobSpec, places: Places) -> dict[str, Tensor]:
    """The tensors by name, with the rows in the order in which the job reads them.

    Of a problem of the catalog: train_inputs and train_targets, those of valid and test likewise,
    `column:NAME` with the number of the group of every training row, and `categories` with the
    number of categories of each categorical column. Of own code that takes an upload: its tensors.

    Raises:
        ProblemError: own code reads its data by itself; or the data are missing or damaged.
    """
    stated = spec.problem
    if stated.kind == "code":
        if stated.data is None:
            raise ProblemError(
                "the job's code reads its data by itself, and recipe.py runs the same code: give "
                "it the files that it reads",
                "problem.data",
            )
        return tensors_of(places.upload(stated.data, "problem.data"), "problem.data")
    return catalog_tensors(spec_adapter.problem(spec, places, None))


def catalog_tensors(problem: Problem) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for part in ("train", "valid", "test"):
        pair = getattr(problem, part)
        if pair is not None:
            found[f"{part}_inputs"], found[f"{part}_targets"] = pair
    for name, values in problem.columns.items():
        groups = np.unique(np.asarray(values), return_inverse=True)[1]
        found[f"column:{name}"] = torch.from_numpy(groups)
    if embeddings := getattr(problem.model, "embeddings", None):
        found["categories"] = torch.tensor([each.num_embeddings for each in embeddings])
    return found


def kept_recipe_data(
    spec: JobSpec, places: Places, artifacts: JobArtifacts, most_bytes: int
) -> Artifact:
    """The file of `recipe_data` in the artifact store, as safetensors.

    Raises:
        ProblemError: as there; or the tensors have more than `most_bytes`.
        ArtifactStoreFails
    """
    tensors = recipe_data(spec, places)
    if (size := size_of(tensors)) > most_bytes:
        raise ProblemError(
            f"the data of recipe.py must have at most {most_bytes:,} bytes (max_model_bytes of the "
            f"service), got {size:,}: ask the operator to raise the bound, or write "
            "data.safetensors from your own copy of the data",
            "problem.data",
        )
    return artifacts.keep_file(RETRAINED, tensors)
