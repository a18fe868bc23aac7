"""A transformer by AdamW and a ResNet-8 by SGD, beside a plain loop and beside other libraries.

Both have a cosine after a warm-up and a weight for every training example; the transformer's
gradients are clipped. A process takes drmad's methods in turn, and each other library has one of
its own. Every result is appended to a file, and is not measured again while it is there.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from drmad_workers import (
    CosineSchedule,
    Problem,
    Replay,
    SampleWeight,
    Shortcut,
    Stored,
    TrainingConfig,
    Tuner,
)
from drmad_workers.data.minibatches import Minibatches
from drmad_workers.hypergradients import Method
from hypergradient_costs.measurement import lengths, reset_peak, resident
from hypergradient_costs.resnet8 import images, resnet8
from hypergradient_costs.transformer import Transformer, next_token_loss, sentences

WARM_UP, WEIGHT_DECAY, CLIP, MOMENTUM = 0.1, 0.01, 1.0, 0.9
ROOT = 1e-12
"""Added below Adam's root by the other libraries, whose derivatives are nan without it where a
weight has had no gradient yet."""
LIMIT_BYTES = 6 * 2**30
PEERS = ("torchopt", "bergson")
SCRIPT = Path(__file__).parents[1] / "engine.py"


@dataclass(frozen=True)
class Recipe:
    """A model, its data and its training."""

    name: str
    model: Callable[[], nn.Module]
    data: Callable[[int, int], tuple[Tensor, Tensor]]
    loss: Callable[[Tensor, Tensor], Tensor]
    optimizer: str
    rate: float

    def problem(self) -> Problem:
        torch.manual_seed(0)
        return Problem(self.model(), self.data(64, 1), self.data(64, 2), loss=self.loss)

    def training(self, steps: int) -> TrainingConfig:
        return TrainingConfig(
            "adamw" if self.optimizer == "adamw" else "sgd",
            steps,
            8,
            self.rate,
            MOMENTUM,
            weight_decay=WEIGHT_DECAY if self.optimizer == "adamw" else 0.0,
            schedule=CosineSchedule(warmup=WARM_UP),
            clip_norm=CLIP if self.optimizer == "adamw" else None,
        )


def classified(outputs: Tensor, targets: Tensor) -> Tensor:
    return functional.cross_entropy(outputs, targets, reduction="none")


RECIPES = {
    "transformer": Recipe(
        "transformer",
        lambda: Transformer(length=16),
        lambda rows, seed: sentences(rows, 64, 16, seed),
        next_token_loss,
        "adamw",
        3e-3,
    ),
    "resnet8": Recipe(
        "resnet8", resnet8, lambda rows, seed: images(rows, 16, 4, seed), classified, "sgd", 0.05
    ),
}


def methods_of(steps: int) -> dict[str, Method]:
    return {
        "replay": Replay(),
        "stored": Stored(),
        "shortcut": Shortcut(),
        "shortcut T/10": Shortcut(horizon=max(1, steps // 10)),
    }


class Loop:
    """The training as a PyTorch user writes it, on the engine's minibatches."""

    def __init__(self, recipe: Recipe, steps: int) -> None:
        self.recipe, self.steps = recipe, steps
        problem = recipe.problem()
        self.training = recipe.training(steps)
        tuner = Tuner(problem, [SampleWeight()], self.training, Replay())
        self.model = recipe.problem().model
        self.minibatches = Minibatches(tuner.train_examples, 8, (0, 0, 0))
        self.valid = tuner.valid_examples.chunk(0, 64)
        self.logits = torch.zeros(64)
        self.factors = self.training.schedule.values(steps)

    def loss(self, step: int, weights: Tensor, model: nn.Module) -> Tensor:
        batch = self.minibatches.join(step)
        losses = self.recipe.loss(model(batch.inputs), batch.targets)
        return (losses * weights[batch.index]).mean()

    def outer(self, model: nn.Module) -> Tensor:
        model.eval()
        return self.recipe.loss(model(self.valid.inputs), self.valid.targets).mean()

    def train(self) -> None:
        parameters = list(self.model.parameters())
        moving: torch.optim.Optimizer = torch.optim.SGD(parameters, self.recipe.rate, MOMENTUM)
        if self.recipe.optimizer == "adamw":
            moving = torch.optim.AdamW(parameters, self.recipe.rate, weight_decay=WEIGHT_DECAY)
        schedule = torch.optim.lr_scheduler.LambdaLR(moving, lambda step: self.factor(step))
        weights = self.logits.sigmoid()
        for step in range(self.steps):
            moving.zero_grad()
            torch.autograd.backward(self.loss(step, weights, self.model))
            if self.training.clip_norm is not None:
                nn.utils.clip_grad_norm_(parameters, self.training.clip_norm)
            moving.step()
            schedule.step()

    def factor(self, step: int) -> float:
        return self.factors[min(step, self.steps - 1)]

    def floor(self, repeats: int = 20) -> float:
        """A gradient and a product from its graph, over the gradient, in CPU seconds."""
        weights = self.logits.sigmoid().requires_grad_()
        parameters = list(self.model.parameters())

        def gradient() -> None:
            torch.autograd.grad(self.loss(0, weights.detach(), self.model), parameters)

        def product() -> None:
            from torch.nn.attention import SDPBackend, sdpa_kernel

            with sdpa_kernel(SDPBackend.MATH):
                loss = self.loss(0, weights, self.model)
            found = torch.autograd.grad(loss, parameters, create_graph=True)
            torch.autograd.grad(found, [*parameters, weights], [g.detach() for g in found])

        taken = {gradient: 0.0, product: 0.0}
        for work in (gradient, product) * (repeats + 1):
            began = time.process_time()
            work()
            taken[work] += time.process_time() - began
        return taken[product] / taken[gradient]


def by_torchopt(loop: Loop) -> Tensor:
    import torchopt

    rates = loop.recipe.rate * torch.tensor([*loop.factors, 0.0])

    def rate(count: Any) -> Any:
        return rates[count]

    if loop.recipe.optimizer == "adamw":
        made = torchopt.chain(
            torchopt.clip.clip_grad_norm(max_norm=CLIP),
            torchopt.adamw(
                rate, weight_decay=WEIGHT_DECAY, eps_root=ROOT, moment_requires_grad=True
            ),
        )
    else:
        made = torchopt.sgd(rate, momentum=MOMENTUM, moment_requires_grad=True)
    logits = loop.logits.clone().requires_grad_()
    optimizer = torchopt.MetaOptimizer(loop.model, made)
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        for step in range(loop.steps):
            optimizer.step(loop.loss(step, logits.sigmoid(), loop.model))
        return torch.autograd.grad(loop.outer(loop.model), logits)[0]


class Weighed(nn.Module):
    """The weighted training loss of a minibatch, as bergson calls a model."""

    def __init__(self, loop: Loop) -> None:
        super().__init__()
        self.model, self.measure = loop.model, loop.recipe.loss

    def forward(self, inputs: Tensor, targets: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
        return (self.measure(self.model(inputs), targets) * weights).mean()


class Stream:
    """The engine's minibatches with the weights of their examples, as bergson reads data."""

    def __init__(self, loop: Loop) -> None:
        self.loop, self.device = loop, torch.device("cpu")
        self.weights = nn.Parameter(loop.logits.sigmoid())
        self.requires_grad = True

    def __len__(self) -> int:
        return self.loop.steps

    def __getitem__(self, step: int) -> dict[str, Tensor]:
        batch = self.loop.minibatches.join(step)
        weights = self.weights[batch.index]
        labels = torch.zeros(8, 2, dtype=torch.long)
        return {"inputs": batch.inputs, "targets": batch.targets, "labels": labels} | {
            "weights": weights
        }


def by_bergson(loop: Loop) -> Tensor:
    import torchopt
    from bergson.magic.trainer import BackwardState, Trainer

    rates = loop.recipe.rate * torch.tensor([*loop.factors, 0.0])
    adam = loop.recipe.optimizer == "adamw"

    def rate(count: Any) -> Any:
        return rates[count]

    made = (
        torchopt.adamw(rate, weight_decay=WEIGHT_DECAY, eps_root=ROOT)
        if adam
        else torchopt.sgd(rate, momentum=MOMENTUM)
    )
    stream = Stream(loop)
    clip = CLIP if adam else None
    with (
        tempfile.TemporaryDirectory() as folder,
        torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH),
    ):
        trainer, state = Trainer.initialize(Weighed(loop), made)
        state = trainer.train(state, stream, save_dir=folder, inplace=True, max_grad_norm=clip)
        state.detach_()
        state.requires_grad = True
        with state.activate(trainer.model) as parameters:
            outer = loop.outer(trainer.model.model)
            found = torch.autograd.grad(outer, list(parameters.values()))
        trainer.model.train()
        slopes = dict(zip(parameters, found, strict=True))
        memory = [torch.zeros_like(t) for t in state.differentiable_tensors()[len(state.params) :]]
        begun = BackwardState(slopes, memory, torch.zeros_like(stream.weights))
        end = trainer.backward(folder, stream, begun, state, inplace=True, max_grad_norm=clip)
    weights = stream.weights.detach()
    by_logits: Tensor = end.weight_grads.detach() * weights * (1.0 - weights)
    return by_logits


def hypergradient(tuner: Tuner) -> Tensor:
    return tuner.evaluate(tuner.initial_values(), 0).hypergradient["sample_weight"]


def one_usual(name: str, steps: int, library: str) -> Iterator[dict[str, Any]]:
    """drmad's methods beside the plain loop, or another library, in this process."""
    recipe = RECIPES[name]
    peers = {"torchopt": by_torchopt, "bergson": by_bergson}
    Loop(recipe, 3).train()  # loads what is loaded at first use

    def measured(who: str, work: Callable[[], Tensor | None], **rest: Any) -> dict[str, Any]:
        before, began = reset_peak(), time.process_time()
        gradient = work()
        seconds = time.process_time() - began
        return {
            "recipe": name, "steps": steps, "name": who, "seconds": seconds,
            "growth": resident("VmHWM") - before,
            "gradient": None if gradient is None else gradient.tolist(),
        } | rest  # fmt: skip

    if library != "drmad":
        peers[library](Loop(recipe, 3))
        loop = Loop(recipe, steps)
        yield measured(library, lambda: peers[library](loop))
        return
    loop = Loop(recipe, steps)
    floor = loop.floor()
    yield measured("plain", loop.train, floor=floor)
    for who, method in methods_of(steps).items():
        small = Tuner(recipe.problem(), [SampleWeight()], recipe.training(20), method)
        small.evaluate(small.initial_values(), 0)
        tuner = Tuner(recipe.problem(), [SampleWeight()], recipe.training(steps), method)
        yield measured(who, partial(hypergradient, tuner))


def usual(options: argparse.Namespace) -> dict[str, Any]:
    """Seconds, memory and cosines of both recipes; goes on with what a file holds already."""
    store = Path(options.rows) if options.rows else Path(tempfile.mkstemp(suffix=".jsonl")[1])
    rows = [json.loads(line) for line in store.read_text().splitlines()] if store.exists() else []
    environment = os.environ | {
        "MALLOC_MMAP_THRESHOLD_": "65536",
        "MALLOC_TRIM_THRESHOLD_": "65536",
    }

    def bound() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (LIMIT_BYTES, LIMIT_BYTES))

    for steps in lengths(options, (20,), (100, 500, 2000)):
        for name in RECIPES:
            for library in ("drmad", *PEERS) if options.peers else ("drmad",):
                known = "plain" if library == "drmad" else library
                if any((r["recipe"], r["steps"], r["name"]) == (name, steps, known) for r in rows):
                    continue
                python = sys.executable if library == "drmad" else options.peers
                command = [python, str(SCRIPT), "--usual", name, library, "--length", str(steps)]
                done = subprocess.run(
                    command, capture_output=True, text=True, preexec_fn=bound, env=environment
                )
                found = [json.loads(x) for x in done.stdout.splitlines() if x.startswith("{")]
                if done.returncode != 0:
                    said = [line for line in done.stderr.splitlines() if line.strip()]
                    why = (said or [f"signal {-done.returncode}"])[-1][:200]
                    found += [{"recipe": name, "steps": steps, "name": library, "failed": why}]
                rows += found
                with store.open("a") as file:
                    file.writelines(json.dumps(row) + "\n" for row in found)
    return {"rows": compared(rows)}


def compared(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows with ratios to the plain loop, and cosines to replay in the place of gradients."""
    found = []
    for row in rows:
        beside = {
            r["name"]: r for r in rows if (r["recipe"], r["steps"]) == (row["recipe"], row["steps"])
        }
        row = dict(row)
        gradient = row.pop("gradient", None)
        if "failed" not in row and "plain" in beside:
            row["ratio"] = row["seconds"] / beside["plain"]["seconds"]
            row["above_plain_bytes"] = row["growth"] - beside["plain"]["growth"]
            exact = beside.get("replay", {}).get("gradient")
            if gradient is not None and exact is not None:
                row["cosine"] = cosine(gradient, exact)
        found.append(row)
    return found


def cosine(one: Sequence[float], other: Sequence[float]) -> float:
    left, right = (torch.tensor(each, dtype=torch.float64) for each in (one, other))
    return float(torch.cosine_similarity(left, right, dim=0))


def usual_lines(part: dict[str, Any]) -> list[str]:
    """The tables of the section of docs/reference/benchmarks.md."""
    lines = [
        "",
        "### A transformer and a ResNet-8, as people train them",
        "",
        "| model | T | method | CPU s | times plain | above plain training | cosine to replay |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in part["rows"]:
        start = f"| {row['recipe']} | {row['steps']} | {row['name']} |"
        if "failed" in row:
            lines.append(f"{start} {row['failed']} | | | |")
            continue
        alike = f"{row['cosine']:.3f}" if "cosine" in row else ""
        above = f"{row['above_plain_bytes'] / 2**20:.0f} MB"
        lines.append(f"{start} {row['seconds']:.2f} | {row['ratio']:.1f} | {above} | {alike} |")
    floors = [row for row in part["rows"] if "floor" in row]
    lines += [
        "",
        "A gradient and one product from its graph, in plain PyTorch, over the gradient: "
        + "; ".join(f"{r['recipe']}, T = {r['steps']}: {r['floor']:.1f}" for r in floors)
        + ". An exact method takes one more for the training.",
    ]
    return lines
