"""The engine on a GPU: the CPU's results, the same bits twice, the device at hand."""

import pytest
import torch

from drmad_workers import TrainingConfig
from drmad_workers.meta.config import MetaConfig
from drmad_workers.training import cuda_graph
from drmad_workers.tuning import tune
from tests.gpu.problems import METHODS, error, evaluated, problem

BOUNDS = {"float64": 1e-9, "float32": 1e-3}


@pytest.mark.parametrize("precision", BOUNDS)
@pytest.mark.parametrize("method", METHODS)
def test_a_gpu_has_the_hypergradient_of_the_cpu_in_float64(method: str, precision: str) -> None:
    expected = evaluated(method, "cpu")
    found = evaluated(method, "cuda", precision)
    assert error(found, expected) < BOUNDS[precision]
    assert found.validation_loss == pytest.approx(expected.validation_loss, rel=BOUNDS[precision])


@pytest.mark.parametrize("clip", [None, 0.3])
def test_recorded_steps_train_as_eager_ones(
    clip: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded = evaluated("replay", "cuda", steps=40, clip_norm=clip)
    monkeypatch.setattr(cuda_graph, "recordable", lambda _: False)
    eager = evaluated("replay", "cuda", steps=40, clip_norm=clip)
    assert error(recorded, eager) < 1e-12


@pytest.mark.parametrize("method", METHODS)
def test_the_same_evaluation_has_the_same_bits_twice(method: str) -> None:
    one, other = (evaluated(method, "cuda", "float32") for _ in range(2))
    assert all(
        torch.equal(part, other.hypergradient[name]) for name, part in one.hypergradient.items()
    )
    assert one.validation_loss == other.validation_loss


def test_a_job_that_resumes_has_the_bits_of_one_that_did_not() -> None:
    method, kinds = METHODS["replay"]
    training = TrainingConfig(steps=12, batch_size=10, learning_rate=0.2)

    def run(iterations: int, **state: object) -> object:
        meta = MetaConfig(iterations=iterations, confirmation=0.0)
        return tune(problem(), kinds, training, method, meta, device="cuda", **state)  # type: ignore[arg-type]

    whole = run(4)
    half = run(2)
    resumed = run(4, state=half.state)  # type: ignore[attr-defined]
    for name, value in whole.state.hyperparameters.items():  # type: ignore[attr-defined]
        assert torch.equal(value, resumed.state.hyperparameters[name])  # type: ignore[attr-defined]


@pytest.mark.gpus(2)
def test_the_second_device_computes_what_the_first_does() -> None:
    assert torch.cuda.current_device() == 0
    first = evaluated("replay", "cuda:0", steps=40)
    before = torch.cuda.memory_allocated(0)
    second = evaluated("replay", "cuda:1", steps=40)
    assert error(second, first) < 1e-12
    assert torch.cuda.current_device() == 0
    assert torch.cuda.memory_allocated(0) == before


def test_a_replica_frees_what_it_took() -> None:
    evaluated("replay", "cuda", "float32", wide=2000)
    before = torch.cuda.memory_allocated()
    for _ in range(3):
        found = evaluated("replay", "cuda", "float32", wide=2000)
    assert torch.cuda.memory_allocated() <= before
    assert found.peak_memory_bytes > before
