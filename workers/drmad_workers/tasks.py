"""What runs on the Ray cluster: the replica actor and the meta step. The only file that knows Ray.

Torch and the engine are imported inside the bodies, so that a scheduler imports this file without
them. What goes in and out is bytes, numbers and the small classes below.
"""

from __future__ import annotations

import io
import math
import sys
import traceback
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, TypeVar

import ray

if TYPE_CHECKING:
    import torch

    from drmad_client.specs import JobSpec
    from drmad_workers.hyperparameters import Group
    from drmad_workers.meta import MetaState
    from drmad_workers.tuning import Evaluation, Tuner

T = TypeVar("T")

LINES_KEPT, LINE_LENGTH = 1000, 2000
"""Of what a replica prints between two reports."""
MOST_GROUPS = 128
"""A tensor of more parts is told of as a whole."""

OUT_OF_MEMORY = "out_of_memory"
LESS_MEMORY = "a smaller training.batch_size or fewer knots need less memory"

_PREVIOUS = "previous_hypergradient"


@dataclass(frozen=True)
class Failure:
    """Why a replica or a meta step gave no result, for the job's user."""

    code: str
    message: str
    iteration: int | None = None
    step: int | None = None
    traceback: str | None = None


@dataclass(frozen=True)
class State:
    """A MetaState on its way: safetensors and plain values."""

    tensors: bytes
    scalars: dict[str, Any]


@dataclass(frozen=True)
class Prepared:
    """What a replica found when it built the problem.

    `hyperparameters` has the fields of drmad_client.records.HyperparameterInfo.
    """

    hyperparameters: list[dict[str, Any]]
    start: State


@dataclass(frozen=True)
class Report:
    """Where a replica is, and the lines it has printed."""

    phase: str
    step: int
    steps: int
    lines: list[str]


@dataclass(frozen=True)
class ReplicaResult:
    """One replica's part of a meta-iteration."""

    replica: int
    evaluation: Evaluation
    node: str
    device: str


@dataclass(frozen=True)
class TrialResult:
    """What one training run of the search gave."""

    validation_loss: float | None
    metrics: dict[str, float]
    message: str = ""
    """Why there is no loss."""


@dataclass(frozen=True)
class Setback:
    """A meta-iteration that the guard does not accept."""

    message: str


@dataclass(frozen=True)
class StepResult:
    """What a meta-iteration leaves behind.

    Attributes:
        record: fields of drmad_client.records.MetaIteration but its time.
        state: to go on from.
        hypergradient: aggregated, safetensors.
        model: replica 0's, safetensors; None when larger than asked for.
        finished: a reason to stop now, or None.
    """

    record: dict[str, Any]
    state: State
    hypergradient: bytes
    model: bytes | None
    finished: str | None


class _Tee(io.TextIOBase):
    """Passes on what is written, and keeps its last lines."""

    def __init__(self, stream: TextIO, lines: deque[str]) -> None:
        self._stream = stream
        self._lines = lines
        self._open_line = ""

    def write(self, text: str) -> int:
        self._stream.write(text)
        *lines, self._open_line = (self._open_line + text).split("\n")
        self._lines.extend(line[:LINE_LENGTH] for line in lines)
        self._open_line = self._open_line[:LINE_LENGTH]
        return len(text)

    def flush(self) -> None:
        self._stream.flush()


def captured_output() -> deque[str]:
    """The last lines that this process prints from now on; whoever reads them takes them out."""
    lines: deque[str] = deque(maxlen=LINES_KEPT)
    sys.stdout, sys.stderr = _Tee(sys.stdout, lines), _Tee(sys.stderr, lines)
    return lines


@ray.remote(max_restarts=0, max_task_retries=0)
class Replica:
    """Trains and differentiates for one job. Keeps problem and data between meta-iterations.

    A second thread answers `report` while the first computes.
    """

    def __init__(
        self,
        spec: str,
        replica: int,
        cpus: float,
        data_roots: Sequence[str],
        uploads: str,
        code: bytes | None,
    ) -> None:
        self._spec = spec
        self._replica = replica
        self._cpus = cpus
        self._data_roots = [Path(root) for root in data_roots]
        self._uploads = Path(uploads)
        self._code = code
        self._folder: Path | None = None
        self._tuner: Tuner | None = None
        self._progress = ("prepare", 0, 0)
        self._lines = captured_output()

    def prepare(self) -> Prepared | Failure:
        """Build the problem and check it; a replica must be prepared before its first iteration."""
        return self._guarded(self._prepare, None)

    def meta_iteration(self, state: State, iteration: int) -> ReplicaResult | Failure:
        """Train at the state's hyperparameters and differentiate the validation loss."""
        return self._guarded(lambda: self._meta_iteration(state, iteration), iteration)

    def whole_meta_iteration(
        self, state: State, iteration: int, infos: Sequence[Mapping[str, Any]], max_model_bytes: int
    ) -> StepResult | Setback | Failure:
        """Of a job with one replica: the meta step too, without another process in between."""
        result = self.meta_iteration(state, iteration)
        return _stepped(self._spec, infos, state, max_model_bytes, [result])

    def fidelity(self, state: State, iteration: int) -> dict[str, Any] | Failure:
        """How far the job's method agrees with the exact one, as drmad_workers.fidelity tells."""
        return self._guarded(lambda: self._fidelity(state, iteration), iteration)

    def trial(self, spec: str) -> TrialResult | Failure:
        """One training run of another spec, in the place of the job's own."""
        return self._guarded(lambda: self._trial(spec), None)

    def report(self) -> Report:
        """What runs now, and what was printed since the last report."""
        lines = [self._lines.popleft() for _ in range(len(self._lines))]
        return Report(*self._progress, lines)

    def _built(self, spec: JobSpec, replica: int) -> Tuner:
        import torch

        from drmad_workers import wire
        from drmad_workers.catalog import Places
        from drmad_workers.code import unpacked

        torch.set_num_threads(max(1, int(self._cpus)))
        self._device = "cuda" if ray.get_gpu_ids() else "cpu"
        self._folder = unpacked(self._code) if self._code is not None else None
        places = Places(self._data_roots, self._uploads)
        return wire.tuner(spec, replica, places, self._device, self._folder)

    def _trial(self, spec_json: str) -> TrialResult:
        from drmad_client.specs import JobSpec
        from drmad_workers.errors import TrainingDiverged

        tuner = self._built(JobSpec.model_validate_json(spec_json), 0)
        try:
            figures = tuner.train(tuner.initial_values(), on_progress=self._note)
        except TrainingDiverged as error:
            return TrialResult(None, {}, str(error))
        return TrialResult(figures.pop("validation_loss"), figures)

    def _prepare(self) -> Prepared:
        from drmad_client.specs import JobSpec
        from drmad_workers.meta import initial_state

        spec = JobSpec.model_validate_json(self._spec)
        self._tuner = self._built(spec, self._replica)
        bound = self._tuner.hyperparameters
        kinds = {h.name or h.kind: h.kind for h in spec.hyperparameters}
        infos = [
            {
                "name": name,
                "kind": kinds[name],
                "shape": list(hyperparameter.initial.shape),
                "transform": hyperparameter.transform,
                "lower": hyperparameter.lower,
                "upper": hyperparameter.upper,
                "groups": _groups(hyperparameter.groups),
            }
            for name, hyperparameter in bound.items()
        ]
        count = sum(hyperparameter.initial.numel() for hyperparameter in bound.values())
        print(f"built the problem on {self._device}: {count:,} hyperparameters")
        return Prepared(infos, _packed(initial_state(bound)))

    def _meta_iteration(self, state: State, iteration: int) -> ReplicaResult:
        assert self._tuner is not None
        begun = _unpacked(state)
        evaluation = self._tuner.evaluate(
            begun.hyperparameters, iteration, on_progress=self._note, choice=begun.choice
        )
        node = ray.get_runtime_context().get_node_id()
        return ReplicaResult(self._replica, evaluation, node, self._device)

    def _guarded(self, body: Callable[[], T], iteration: int | None) -> T | Failure:
        """As the function of this name; what the user's code raised is told in its own frames."""

        def told() -> T:
            from drmad_workers.code import UserCodeError, user_error
            from drmad_workers.errors import EngineError, ran_out_of_memory

            try:
                return body()
            except (EngineError, UserCodeError):
                raise
            except Exception as error:
                if self._folder is None or ran_out_of_memory(error):
                    raise
                raise user_error(error, self._folder) from error

        return _guarded(told, iteration)

    def _fidelity(self, state: State, iteration: int) -> dict[str, Any]:
        from drmad_client.specs import JobSpec
        from drmad_workers import fidelity, wire

        assert self._tuner is not None
        spec = JobSpec.model_validate_json(self._spec)
        report = fidelity.measure(
            self._tuner,
            wire.training(spec),
            [wire.method(spec.hypergradient)],
            _unpacked(state).hyperparameters,
            spec.meta.iterations,
            iteration,
            on_progress=self._note,
        )
        return report.as_dict()

    def _note(self, phase: str, step: int, steps: int) -> None:
        self._progress = (phase, step, steps)


@ray.remote(num_cpus=0, max_retries=0)
def meta_step(
    spec: str,
    infos: Sequence[Mapping[str, Any]],
    state: State,
    max_model_bytes: int,
    *results: ReplicaResult | Failure,
) -> StepResult | Setback | Failure:
    """Aggregate the replicas in their order and update the hyperparameters once."""
    import torch

    torch.set_num_threads(1)
    return _stepped(spec, infos, state, max_model_bytes, results)


def _stepped(
    spec: str,
    infos: Sequence[Mapping[str, Any]],
    state: State,
    max_model_bytes: int,
    results: Sequence[ReplicaResult | Failure],
) -> StepResult | Setback | Failure:
    failures = [result for result in results if isinstance(result, Failure)]
    if failures:
        return failures[0]
    done = [result for result in results if isinstance(result, ReplicaResult)]
    iteration = int(state.scalars["iteration"])
    return _guarded(lambda: _meta_step(spec, infos, state, max_model_bytes, done), iteration)


def _meta_step(
    spec_json: str,
    infos: Sequence[Mapping[str, Any]],
    packed: State,
    max_model_bytes: int,
    results: Sequence[ReplicaResult],
) -> StepResult | Setback:
    from safetensors.torch import save

    from drmad_client.specs import JobSpec
    from drmad_workers import wire
    from drmad_workers.aggregation import aggregate
    from drmad_workers.hypergradients.auto import joined
    from drmad_workers.meta import finished, meta_update, setback

    spec = JobSpec.model_validate_json(spec_json)
    state, config = _unpacked(packed), wire.meta(spec)
    evaluations = [result.evaluation for result in results]
    hypergradients = [evaluation.hypergradient for evaluation in evaluations]
    hypergradient = aggregate(hypergradients, spec.replicas.aggregate)
    validation_loss = _mean([e.validation_loss for e in evaluations])
    why = setback(state, validation_loss, config)
    if why is None and not all(bool(g.isfinite().all()) for g in hypergradient.values()):
        why = "the hypergradient is not finite"
    if why is not None:
        return Setback(why)
    choices = [e.choice for e in evaluations if e.choice is not None]
    choice = joined(choices) if choices else None
    after = replace(
        meta_update(state, validation_loss, hypergradient, config, _bounds(infos)), choice=choice
    )
    model = evaluations[0].model
    size = sum(t.numel() * t.element_size() for t in model.values())
    mean = _flat(hypergradient)
    record = {
        "iteration": state.iteration,
        "validation_loss": validation_loss,
        "training_loss": _mean([e.training_loss for e in evaluations]),
        "metrics": _means([e.metrics | e.diagnostics for e in evaluations]),
        "hypergradient_norm": float(mean.norm()),
        "cosine_to_previous": _cosine_to_previous(packed, hypergradient),
        "hyperparameters": {
            info["name"]: _summary(
                state.hyperparameters[info["name"]], info, hypergradient[info["name"]]
            )
            for info in infos
        },
        "seconds": _means([e.seconds for e in evaluations]),
        "replicas": [_figures(result, mean) for result in results],
        "method": evaluations[0].method,
        "choice": choice.as_dict() if choice and choice.looked == state.iteration else None,
        "is_best": after.best_iteration == state.iteration,
    }
    return StepResult(
        record,
        _packed(after, hypergradient),
        save({f"hyperparameters/{name}": tensor for name, tensor in hypergradient.items()}),
        save({name: t.contiguous() for name, t in model.items()})
        if size <= max_model_bytes
        else None,
        finished(after, config),
    )


@ray.remote(num_cpus=0, max_retries=0)
def propose(
    parameters: Mapping[str, Mapping[str, Any]],
    sampler: str,
    seed: int,
    number: int,
    known: Sequence[tuple[Mapping[str, Any], float | None]],
) -> dict[str, Any]:
    """The values of the next trial of a search; see drmad_workers.search."""
    from drmad_workers import search

    return search.propose(parameters, sampler, seed, number, known)


@ray.remote(num_cpus=0, max_retries=0)
def retreat(
    spec: str,
    infos: Sequence[Mapping[str, Any]],
    state: State,
    best: State,
    hypergradient: bytes,
) -> State | Failure:
    """The state that begins a meta-iteration again after a setback; see drmad_workers.meta."""
    return _guarded(
        lambda: _retreat(spec, infos, state, best, hypergradient), state.scalars["iteration"]
    )


def _retreat(
    spec_json: str,
    infos: Sequence[Mapping[str, Any]],
    state: State,
    best: State,
    hypergradient: bytes,
) -> State:
    from safetensors.torch import load

    from drmad_client.specs import JobSpec
    from drmad_workers import meta, wire

    spec = JobSpec.model_validate_json(spec_json)
    named = load(hypergradient)
    gradients = {info["name"]: named[f"hyperparameters/{info['name']}"] for info in infos}
    after = meta.retreat(
        _unpacked(state), _unpacked(best), gradients, wire.meta(spec), _bounds(infos)
    )
    return _packed(after, gradients)


def _bounds(infos: Sequence[Mapping[str, Any]]) -> dict[str, tuple[float | None, float | None]]:
    return {info["name"]: (info["lower"], info["upper"]) for info in infos}


def _figures(result: ReplicaResult, mean: torch.Tensor) -> dict[str, Any]:
    """Fields of drmad_client.records.ReplicaFigures."""
    evaluation, own = result.evaluation, _flat(result.evaluation.hypergradient)
    lengths = float(own.norm() * mean.norm())
    return {
        "replica": result.replica,
        "validation_loss": evaluation.validation_loss,
        "hypergradient_norm": float(own.norm()),
        "cosine_to_mean": float(own @ mean) / lengths if lengths > 0.0 else 0.0,
        "seconds": evaluation.seconds,
        "peak_memory_bytes": evaluation.peak_memory_bytes,
        "node": result.node,
        "device": result.device,
    }


def _summary(
    raw: torch.Tensor, info: Mapping[str, Any], hypergradient: torch.Tensor
) -> dict[str, Any]:
    """Fields of drmad_client.records.HyperparameterSummary."""
    import numpy as np

    from drmad_client.transforms import to_user_units

    values, gradient = to_user_units(raw.numpy(), info["transform"]), hypergradient.flatten()
    quantiles = np.quantile(values, [0.0, 0.25, 0.5, 0.75, 1.0]).tolist()
    names = ("minimum", "lower_quartile", "median", "upper_quartile", "maximum")
    return {
        **dict(zip(names, quantiles, strict=True)),
        "hypergradient_norm": float(gradient.norm()),
        "groups": [
            {
                "label": group["label"],
                "median": float(np.median(values.ravel()[group["start"] : group["stop"]])),
                "hypergradient_norm": float(gradient[group["start"] : group["stop"]].norm()),
            }
            for group in info.get("groups", ())
        ],
    }


def _groups(groups: Sequence[Group]) -> list[dict[str, Any]]:
    """Fields of drmad_client.records.HyperparameterGroup, where they tell something and are few."""
    if not 1 < len(groups) <= MOST_GROUPS:
        return []
    return [group._asdict() for group in groups]


def _cosine_to_previous(packed: State, hypergradient: Mapping[str, torch.Tensor]) -> float | None:
    """None in the first meta-iteration, and where one of the two is zero."""
    from safetensors.torch import load

    kept = load(packed.tensors)
    before = {
        name: kept[f"{_PREVIOUS}/{name}"].float()
        for name in hypergradient
        if f"{_PREVIOUS}/{name}" in kept
    }
    if before.keys() != hypergradient.keys():
        return None
    one, other = _flat(before).double(), _flat(hypergradient).double()
    lengths = float(one.norm() * other.norm())
    return float(one @ other) / lengths if lengths > 0.0 else None


def _flat(tensors: Mapping[str, torch.Tensor]) -> torch.Tensor:
    import torch

    return torch.cat([tensors[name].flatten() for name in sorted(tensors)])


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _means(figures: Sequence[Mapping[str, float]]) -> dict[str, float]:
    means = {name: _mean([figure[name] for figure in figures]) for name in figures[0]}
    return {name: mean for name, mean in means.items() if math.isfinite(mean)}


def _packed(state: MetaState, hypergradient: Mapping[str, torch.Tensor] | None = None) -> State:
    """With the direction of the hypergradient that led here, for the next one to be compared with.

    Half precision does for a direction.
    """
    from safetensors.torch import save

    tensors = {name: tensor.contiguous() for name, tensor in state.tensors().items()}
    if hypergradient:
        largest = float(_flat(hypergradient).abs().max()) or 1.0
        for name, tensor in hypergradient.items():
            tensors[f"{_PREVIOUS}/{name}"] = (tensor / largest).half().contiguous()
    return State(save(tensors), state.scalars())


def _unpacked(state: State) -> MetaState:
    from safetensors.torch import load

    from drmad_workers.meta import MetaState

    return MetaState.restore(load(state.tensors), state.scalars)


def _guarded(body: Callable[[], T], iteration: int | None) -> T | Failure:
    """What the engine refuses, and any other exception, as a Failure that names the root cause."""
    from drmad_workers.code import UserCodeError
    from drmad_workers.errors import (
        HypergradientDiverged,
        HypergradientError,
        ProblemError,
        TrainingDiverged,
        ran_out_of_memory,
    )

    try:
        return body()
    except ProblemError as error:
        return Failure("problem_invalid", str(error), iteration)
    except TrainingDiverged as error:
        message = f"meta-iteration {iteration}: {error}"
        return Failure("training_diverged", message, iteration, error.step)
    except HypergradientDiverged as error:
        message = f"meta-iteration {iteration}: {error}"
        return Failure("hypergradient_diverged", message, iteration, error.step)
    except HypergradientError as error:
        return Failure("hypergradient_failed", f"meta-iteration {iteration}: {error}", iteration)
    except UserCodeError as error:
        return Failure("user_code", str(error), iteration, traceback=error.traceback)
    except Exception as error:
        if ran_out_of_memory(error):
            first = str(error).strip().partition("\n")[0] or type(error).__name__
            return Failure(OUT_OF_MEMORY, f"{first}; {LESS_MEMORY}", iteration)
        message = f"{type(error).__name__}: {error}"
        return Failure("worker_error", message, iteration, traceback=_trimmed(error))


def _trimmed(error: Exception) -> str:
    """The traceback without the frames of libraries and of ours around the user's own code.

    Where none of the frames are the user's, all below this file are shown: the mistake is ours.
    """
    frames = traceback.extract_tb(error.__traceback__)
    ours = str(Path(__file__).parent)
    theirs = [
        f for f in frames if not f.filename.startswith(ours) and "-packages" not in f.filename
    ]
    shown = theirs or [frame for frame in frames if frame.filename != __file__]
    heading = "Traceback (most recent call last):\n"
    lines = [*traceback.format_list(shown), *traceback.format_exception_only(error)]
    return heading + "".join(lines)
