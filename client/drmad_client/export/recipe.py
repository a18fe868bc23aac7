"""The recipe of a job as a file of plain PyTorch, which runs without drmad."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping
from importlib import resources, util
from io import BytesIO
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import numpy as np

from drmad_client.errors import DrmadError
from drmad_client.export import source_folding
from drmad_client.files import code_archive
from drmad_client.spec.inner.optimizers import OPTIMIZERS
from drmad_client.spec.job import JobSpec
from drmad_client.spec.problem import CatalogProblem
from drmad_client.spec.side_runs.retraining import RetrainSpec

PARTS = ("statement", "catalog", "rates", "row_weights", "optimizers", "training")
"""The modules of export/plain, in the order in which they stand in the file."""
_NO_SETTINGS = "SETTINGS: dict[str, Any] = {}"
"""The line of training.py in whose place the settings of the job stand."""
_RATES = ("learning_rate", "momentum", "weight_decay")
BUILD = 12
"""The purpose of the seed under which own code builds its problem; see the engine's streams."""
IMAGES = {
    "digits": (1, 8, 8),
    "mnist": (1, 28, 28),
    "fashion_mnist": (1, 28, 28),
    "cifar10": (3, 32, 32),
}
"""The images of data sets whose rows are flat: channels, height and width."""
_INTEGRATIONS = "drmad_workers.integrations"
_OWN_IMPORT = re.compile(rb"^\s*(?:from|import)\s+(drmad_\w+(?:\.\w+)*)", re.MULTILINE)
_STANDS_IN = ("drmad_workers", "drmad_workers.problem", "drmad_workers.update_rule")


class NotPlain(DrmadError):
    """The recipe has a part that the file does not state; the message names it."""


def recipe(spec: JobSpec, asked: RetrainSpec, job: str) -> str:
    """The source of the file: what `export.pytorch` has, and the training below it.

    It reads hyperparameters.safetensors beside it: the tuned values in the user's units, by name;
    and the modules of own code in the folder `code`, see `code_files`.

    Args:
        spec: The job that began, with the values that its search found.
        asked: How it is retrained.
        job: The id of the job, for a comment.
    Raises:
        NotPlain: The file does not state a part of the recipe.
    """
    if spec.kind != "tuning":
        raise NotPlain("recipe.py does not state an attribution, which tunes nothing")
    package = resources.files("drmad_client.export")
    sources = [(package / "pytorch.py").read_text(encoding="utf-8")]
    sources += [(package / "plain" / f"{p}.py").read_text(encoding="utf-8") for p in PARTS]
    program = source_folding.joined(sources, uses(spec, asked), "drmad_client")
    read = source_folding.constants_of(program)
    settings = _read_ones(_settings(spec, asked), read)
    stated = _NO_SETTINGS.replace("{}", source_folding.literal(settings))
    program = program.replace(_NO_SETTINGS, stated)
    return _head(spec, asked, job) + program


def uses(spec: JobSpec, asked: RetrainSpec) -> set[str]:
    """The parts of the modules in export/plain that the recipe of a job has."""
    training, problem = spec.training, spec.problem
    kinds = {each.kind for each in spec.hyperparameters}
    weights = [each for each in spec.hyperparameters if each.kind == "sample_weight"]
    found: set[str] = {training.optimizer, training.precision, *kinds}
    schedule = training.schedule
    if schedule.name != "constant" or schedule.warmup:
        found |= {"schedule", schedule.name}
    if problem.kind == "code":
        found.add("code")
        tasks: list[str] = []
    else:
        stated = _task(problem)
        found.add(problem.model.name)
        tasks = [stated] if stated else ["classification", "regression"]
    holds = {
        **dict.fromkeys(tasks, True),
        "one task": len(tasks) == 1,
        "data": reads_data(spec),
        "weights file": problem.weights is not None,
        "groups": bool(training.groups),
        "tuned rates": bool(kinds & set(_RATES)),
        "row weights": bool(weights) or "loss_weight" in kinds,
        "weights of classes": any(w.per == "class" for w in weights) or "loss_weight" in kinds,
        "weights of groups": any(w.per not in ("class", "example") for w in weights),
        "rows left out": asked.leaves_out,
        "validation rows": asked.with_validation,
        "penalties": bool(kinds & {"l1", "l2"}),
        "normalised": any(each.normalised for each in weights),
        "nesterov": training.nesterov,
        "accumulate": training.accumulate > 1,
        "clip_norm": training.clip_norm is not None,
        "clip_value": training.clip_value is not None,
    }
    return found | {name for name, used in holds.items() if used}


def _read_ones(settings: Mapping[str, Any], read: Collection[object]) -> dict[str, Any]:
    """The settings that the program reads by their names; the options of own code are its own."""

    def pruned(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: pruned(each) for key, each in value.items() if key in read}
        return [pruned(each) for each in value] if isinstance(value, list | tuple) else value

    found: dict[str, Any] = pruned({**settings, "options": None})
    return found | {name: settings[name] for name in ("options",) if name in found}


def code_files(archive: bytes) -> dict[str, bytes]:
    """The files beside recipe.py for own code: its archive below `code`, and what it imports.

    Raises:
        CodeError: The archive is not safe to unpack.
        NotPlain: The code imports a part of drmad that the file does not replace.
    """
    code_archive.check(archive)
    with ZipFile(BytesIO(archive)) as packed:
        files = {f"code/{name}": packed.read(name) for name in packed.namelist() if name[-1] != "/"}
    imported = {
        each.decode()
        for name, content in files.items()
        if name.endswith(".py")
        for each in _OWN_IMPORT.findall(content)
    }
    integrations = {name for name in imported if name.startswith(_INTEGRATIONS)}
    if other := sorted(imported - integrations - {*_STANDS_IN}):
        raise NotPlain(
            f"recipe.py does not replace {', '.join(other)}, which your code imports: import what "
            "states the problem from drmad_workers"
        )
    return files | (_integration_files() if integrations else {})


def reads_data(spec: JobSpec) -> bool:
    """Whether recipe.py reads data.safetensors; other own code reads its data by itself."""
    return spec.kind == "tuning" and (spec.problem.kind != "code" or spec.problem.data is not None)


def shortcomings(spec: JobSpec) -> str:
    """What the user has to add to recipe.py of this job; empty if it is complete."""
    if spec.kind != "tuning":
        return "recipe.py will be no program, because an attribution tunes nothing"
    if spec.problem.weights is not None:
        return "recipe.py will need the file of weights beside it, as weights.safetensors"
    return ""


def _integration_files() -> dict[str, bytes]:
    """The modules of the integrations, from the installed distribution."""
    found = util.find_spec("drmad_workers")
    places = [] if found is None else list(found.submodule_search_locations or ())
    if not places:
        raise NotPlain(f"recipe.py does not state {_INTEGRATIONS}, which is not installed here")
    folder = Path(places[0]) / "integrations"
    names = ("transformers.py", "tasks.py", "tokenized_data.py")
    return {f"integrations/{name}": (folder / name).read_bytes() for name in names}


def _settings(spec: JobSpec, asked: RetrainSpec) -> dict[str, Any]:
    training = spec.training if asked.steps is None else spec.training.over(asked.steps)
    tuned = [
        {
            "per": "model",
            "groups": [],
            "column": None,
            "normalised": False,
            **each.model_dump(),
            "name": each.name or each.kind,
        }
        for each in spec.hyperparameters
    ]
    kept = ("kind", "name", "per", "groups", "column", "normalised")
    weights = [each for each in tuned if each["kind"] == "sample_weight"]
    first_decay = OPTIMIZERS[training.optimizer].first_decay
    return {
        **_problem_settings(spec),
        **training.model_dump(exclude={"data_workers", "deterministic", "evaluation_rows"}),
        "momentum": training.betas[0] if first_decay == "betas" else training.momentum,
        "untuned_weight": math.prod(1.0 / (1.0 + math.exp(-each["init"])) for each in weights),
        "with_validation": asked.with_validation,
        "threshold": asked.threshold,
        "drop_lowest": asked.drop_lowest,
        "hyperparameters": [{name: each[name] for name in kept} for each in tuned],
    }


def _task(problem: CatalogProblem) -> str | None:
    """What is predicted; None where the targets of a table say it."""
    stated: str | None = getattr(problem.data, "task", "classification")
    return stated


def _problem_settings(spec: JobSpec) -> dict[str, Any]:
    problem = spec.problem
    common = {"starts_from_weights": problem.weights is not None}
    if problem.kind == "code":
        sequence = np.random.SeedSequence([BUILD, spec.seed])
        seed = int(sequence.generate_state(1, np.uint64)[0] >> np.uint64(1))
        return common | {
            "entrypoint": problem.entrypoint,
            "options": problem.options,
            "build_seed": seed,
            "takes_data": problem.data is not None,
            "initialize": problem.initialize,
        }
    return common | {
        "entrypoint": None,
        "model": problem.model.model_dump() | {"image": IMAGES.get(problem.data.name)},
        "task": _task(problem),
        "outputs": problem.data.classes,
    }


def _head(spec: JobSpec, asked: RetrainSpec, job: str) -> str:
    """The docstring of the file: how it is run, and what lies beside it."""
    arguments = " data.safetensors" if reads_data(spec) else ""
    lines = [
        f'"""The recipe of {job}, in plain PyTorch: nothing of drmad is needed.',
        "",
        f"    python recipe.py{arguments} --seeds 5",
        "",
        "hyperparameters.safetensors lies beside this file and has the tuned values in their own "
        "units.",
    ]
    if spec.problem.kind == "code":
        lines.append("Your own code lies in the folder `code`.")
        if reads_data(spec):
            lines.append("data.safetensors has the arrays of the uploaded data.")
    else:
        lines += [
            "data.safetensors has train_inputs and train_targets, and those of test"
            + (" and valid." if asked.with_validation else "."),
        ]
    if spec.problem.weights is not None:
        lines.append("weights.safetensors is the file of weights that the job names: put it here.")
    return "\n".join(lines) + '\n"""\n\n'
