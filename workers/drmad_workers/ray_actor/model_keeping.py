"""Where a trained model is kept: in Redis, as an artifact, or not at all, which is said at once."""

from __future__ import annotations

import sys
from collections.abc import Mapping

from safetensors.torch import save
from torch import Tensor

from drmad_workers.artifacts.artifact import ArtifactError, ArtifactsDenied
from drmad_workers.artifacts.job_artifacts import JobArtifacts, Kept, size_of
from drmad_workers.artifacts.store import MODELS

MOST_WITHOUT_STORE_BYTES = 64 << 20


def saved_model(
    model: Mapping[str, Tensor],
    max_bytes: int,
    artifacts: JobArtifacts | None = None,
    part: str = MODELS,
) -> Kept | None:
    """The model as safetensors; None if its tensors take more than `max_bytes`.

    Args:
        artifacts: where a model goes that is too large for Redis; None keeps all in Redis. A model
            that it does not let the worker write goes to Redis too, up to 64 MiB.
        part: what it is of the job, see drmad_workers.artifacts.store.
    """
    if size_of(model) > max_bytes:
        return None
    if artifacts is not None:
        try:
            return artifacts.keep(part, model)
        except ArtifactsDenied as denied:
            print(f"{denied}; the operator must let the workers write there", file=sys.stderr)
            if size_of(model) > MOST_WITHOUT_STORE_BYTES:
                return None
    return save({name: tensor.contiguous() for name, tensor in model.items()})


def model_refusal(size: int, max_bytes: int, artifacts: JobArtifacts | None = None) -> str:
    """Why `saved_model` will keep no model of this size; empty if it will.

    A store that should take the model is tried out by a file of a few bytes.
    """
    if size > max_bytes:
        return (
            f"to be kept, the model must have at most {max_bytes:,} bytes (max_model_bytes of the "
            f"service), got {size:,}; hyperparameters and history are kept: ask the operator to "
            "raise the bound, or freeze the weights that need no training"
        )
    if artifacts is None or size <= artifacts.most_inline:
        return ""
    try:
        artifacts.location.open().try_out()
    except ArtifactsDenied as denied:
        if size <= MOST_WITHOUT_STORE_BYTES:
            return ""
        return (
            f"the model is not kept, because its {size:,} bytes do not fit into Redis, and "
            f"{denied}; ask the operator to let the workers write there"
        )
    except ArtifactError as error:
        return (
            f"the model, {size:,} bytes, cannot be kept now: {error}; ask the operator to mend the "
            "artifact store before the first meta-iteration ends"
        )
    return ""
