"""Prints the bits of a meta-iteration of several jobs, in a process of its own.

python -m tests.workers.one_seed OTHER_SEED FOLDER: the global generators begin under OTHER_SEED,
which must not matter; FOLDER holds the code of `own_problem`.
"""

import hashlib
import os
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from drmad_client.spec.job import JobSpec
from drmad_workers import spec_adapter
from drmad_workers.catalog import MODELS, Places
from tests.workers.plain_training import seed_everything

EXAMPLES = Path(__file__).parents[2] / "examples"
ROOTS = [Path(p) for p in os.environ.get("DRMAD_DATA_ROOTS", "").split(os.pathsep) if p]
CODE = "sha256:" + "0" * 64
SHORT = {"steps": 12, "batch_size": 10}


def jobs(own_code: Path) -> Iterator[tuple[str, dict[str, Any], Path | None]]:
    """Name, fields and folder of the code of every job."""
    data = {"name": "digits", "train": 60, "valid": 40, "test": 20}
    for name in MODELS:
        for options in ({}, {"batch_norm": True}) if name == "cnn" else ({},):
            problem = {"model": {"name": name, **options}, "data": data}
            yield f"{name} {options}", {"problem": problem}, None
    for file in (*sorted(EXAMPLES.glob("*.yaml")), *sorted(EXAMPLES.glob("*/job.yaml"))):
        fields = yaml.safe_load(file.read_text())
        fields["training"] = fields.get("training", {}) | SHORT
        fields.get("hypergradient", {}).pop("horizon", None)
        if fields["problem"].get("data", {}).get("name") == "mnist":
            if not any((root / "mnist").is_dir() for root in ROOTS):
                continue
            fields["problem"]["data"] |= {"train": 100, "valid": 50, "test": 50}
        own = "entrypoint" in fields["problem"]
        if own:
            fields["problem"]["code"] = CODE
        sys.modules.pop("my_problem", None)  # every example has one
        name = file.relative_to(EXAMPLES).as_posix()
        yield name, fields, file.parent if own else None
    for function in ("build", "given"):
        entrypoint = f"own_problem:{function}"
        yield entrypoint, {"problem": {"entrypoint": entrypoint, "code": CODE}}, own_code


def bits(fields: dict[str, Any], code: Path | None) -> str:
    """A digest of everything that a meta-iteration returns."""
    whole = {
        "hyperparameters": [{"kind": "l2", "per": "layer", "init": -5}],
        "training": SHORT,
        "hypergradient": {"method": "replay"},
    }
    spec = JobSpec.model_validate(whole | fields)
    tuner = spec_adapter.tuner(spec, places=Places([*ROOTS, EXAMPLES / "table"]), code=code)
    found = tuner.evaluate(tuner.initial_values(), 0)
    digest = hashlib.sha256(f"{found.validation_loss!r} {found.metrics!r}".encode())
    for part in (found.hypergradient, found.model):
        for name, tensor in sorted(part.items()):
            digest.update(name.encode() + tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()


def main() -> None:
    other_seed, own_code = int(sys.argv[1]), Path(sys.argv[2])
    torch.set_num_threads(1)
    seed_everything(other_seed)
    for name, fields, code in jobs(own_code):
        for _ in range(1 + other_seed % 2):  # in one of the processes the module is loaded before
            torch.rand(3), np.random.rand(), random.random()
            found = bits(fields, code)
        print(name, found)


if __name__ == "__main__":
    main()
