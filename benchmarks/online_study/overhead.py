"""The time of a window beside that of its gradients and products alone."""

import statistics
import time
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from drmad_workers import MetaConfig, OnlineRun, SampleWeight, Stored, Tuner
from drmad_workers.evaluation import differentiated_run
from drmad_workers.hypergradients.method import Adjoint
from drmad_workers.meta.state import initial_state
from drmad_workers.meta.update import meta_update
from drmad_workers.online.outer_loop import touched
from drmad_workers.training.progress import Monitor
from drmad_workers.training.run import TrainingRun
from online_study.digits import BATCH, Digits, digits, model, problem, training

WINDOWS = 60
"""The windows that are timed, in turn with as many bare loops."""


def overhead(window: int) -> dict[str, Any]:
    """Medians of CPU milliseconds of a window with its outer step, and of three bare loops.

    `alone_ms` is that of the gradients of the training loss on the minibatches of a window, the
    gradient of the outer loss and the Hessian-vector products, by the engine's own functions.
    `steps_ms` also has the steps of the optimizer and of the adjoint, as a run of any length takes
    them. `eager_ms` has the same gradients and products as autograd takes them, without the traces
    that the engine repeats. All of them gather the minibatches. A window measures no metrics here,
    which a run does once in 100 steps.
    """
    settings = replace(training(), steps=window * 10**4)
    data = digits(0)
    tuner = Tuner(problem(data), [SampleWeight()], settings, Stored(), seed=0)
    meta = MetaConfig("adam", 0.1, mode="online", window=window)
    run, bare = OnlineRun(tuner.replica, Stored(), window), bare_run(tuner)
    state = initial_state(tuner.hyperparameters)
    times: list[tuple[float, float, float, float]] = []
    with run.open():
        for _ in range(WINDOWS + 10):
            started = time.thread_time()
            found = run.advance(state.hyperparameters)
            state = meta_update(
                state,
                found.validation_loss,
                found.hypergradient,
                meta,
                covered=touched(found.hypergradient),
                cost=found.cost,
            )
            whole = time.thread_time() - started
            bares = alone(tuner, bare, window), steps(tuner, bare, window)
            times.append((whole, *bares, eager(data, window)))
    one, other, third, fourth = (statistics.median(each) for each in zip(*times[10:], strict=True))
    return {
        "window_ms": 1e3 * one,
        "alone_ms": 1e3 * other,
        "steps_ms": 1e3 * third,
        "eager_ms": 1e3 * fourth,
        "overhead": one / other - 1.0,
        "overhead_on_eager": one / fourth - 1.0,
        "overhead_on_steps": one / third - 1.0,
    }


def bare_run(tuner: Tuner) -> TrainingRun:
    """A training run of the tuner, which the bare loops take steps of."""
    return differentiated_run([tuner.replica], tuner.initial_values(), 0, Monitor()).replicas[0].run


def alone(tuner: Tuner, bare: TrainingRun, window: int) -> float:
    """The seconds of the gradients and the products of a window."""
    objective = tuner.objective
    cotangent = torch.randn_like(bare.gradient)
    adjoint, carried = torch.empty_like(cotangent), cotangent.new_empty(0)
    started = time.thread_time()
    for step in range(window):
        objective.inner.gradient(bare.batch(step), bare.gradient)
    objective.begin_products()
    objective.outer_gradient(tuner.valid_examples, adjoint, carried, lambda: None)
    for step in range(window):
        objective.subtract_product(bare.batch(step), cotangent, adjoint)
    objective.end_products()
    return time.thread_time() - started


def eager(data: Digits, window: int) -> float:
    """The seconds of as many gradients and products by autograd alone, as one writes them."""
    net = model()
    weights, logits = list(net.parameters()), torch.zeros(len(data.wrong), requires_grad=True)
    along = [torch.randn_like(each) for each in weights]
    entropy = nn.functional.cross_entropy

    def loss_of(step: int) -> Tensor:
        rows = torch.arange(step * BATCH, (step + 1) * BATCH) % len(data.wrong)
        inputs, targets = data.train[0][rows], data.train[1][rows]
        return (logits.sigmoid()[rows] * entropy(net(inputs), targets, reduction="none")).mean()

    started = time.thread_time()
    for step in range(window):
        torch.autograd.grad(loss_of(step), weights)
    torch.autograd.grad(entropy(net(data.valid[0]), data.valid[1]), weights)
    for step in range(window):
        first = torch.autograd.grad(loss_of(step), weights, create_graph=True)
        torch.autograd.grad(first, [*weights, logits], along)
    return time.thread_time() - started


def steps(tuner: Tuner, bare: TrainingRun, window: int) -> float:
    """The seconds of the steps of a window forwards and backwards."""
    adjoint = Adjoint(bare)
    started = time.thread_time()
    for step in range(window):
        bare.take(step)
    tuner.objective.begin_products()
    tuner.objective.outer_gradient(
        tuner.valid_examples, adjoint.weights, adjoint.carried, lambda: None
    )
    adjoint.begin(contraction=False)
    for step in range(window - 1, 0, -1):
        adjoint.step_back(step)
    adjoint.step_back(window)  # step 0 of a run would compare its traces
    tuner.objective.end_products()
    return time.thread_time() - started
