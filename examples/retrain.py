"""Retrain with plain PyTorch and the tuned weights of a job, and reach the service's figures.

    drmad submit examples/clean-digits.yaml --watch
    python examples/retrain.py job_01J...

The data set has wrong labels, and the job has tuned a weight for every training example. An
ordinary training loop uses these weights here, without drmad and without hypergradients.
"""

import sys

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from drmad_client import Client, Job
from drmad_client.export.pytorch import WeightedExamples
from drmad_workers.catalog import load_data


def main(job_id: str) -> None:
    with Client() as client:
        job = client.jobs.retrieve(job_id).wait()
        tuned = retrain(job, job.hyperparameters()["sample_weight"])
        untuned = retrain(job, job.hyperparameters(0)["sample_weight"])
    assert job.best is not None
    print(f"test error, weights all the same: {untuned:.1%}")
    print(f"test error, tuned weights:        {tuned:.1%}")
    print(f"test error, by the service:       {job.best.metrics['test_error']:.1%}")


def retrain(job: Job, weights: object, runs: int = 3) -> float:
    """Mean test error of a few training runs, each from its own initial weights."""
    data = load_data("digits", job.spec.problem.data.model_dump(exclude={"name"}))
    assert data.test is not None
    training, errors = job.spec.training, []
    for seed in range(runs):
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(64, 50), nn.Tanh(), nn.Linear(50, 10))
        # The papers' damped rule takes torch's path at η = α (1 - γ).
        optimizer = torch.optim.SGD(
            model.parameters(),
            lr=training.learning_rate * (1 - training.momentum),
            momentum=training.momentum,
        )
        examples = WeightedExamples(TensorDataset(*data.train), weights)
        loader = DataLoader(examples, training.batch_size, shuffle=True, drop_last=True)
        for _ in range(training.steps // len(loader)):
            for inputs, targets, weight in loader:
                losses = nn.functional.cross_entropy(model(inputs), targets, reduction="none")
                optimizer.zero_grad()
                (weight * losses).mean().backward()
                optimizer.step()
        inputs, targets = data.test
        with torch.no_grad():
            errors.append((model(inputs).argmax(1) != targets).double().mean().item())
    return sum(errors) / runs


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(*sys.argv[1:])
