"""The goals on a GPU: recorded steps, batched replicas, a language model, forward overhead, memory.

    make test-gpu
    python benchmarks/gpu.py [--quick] [--repeats 5] [--json FILE]

Prints a table with the chip, its driver, the versions and the date. Without a GPU it prints why
nothing is measured, and ends without an error.

- `small step`: an MLP 784-50-50-50-10, batch 50, momentum SGD: a step that is recorded as a CUDA
  graph against an eager one (goal: 5 times as fast).
- `eight replicas`: the same MLP, a shortcut of 100 steps: eight batched replicas against one
  (goal: 1.5 times the seconds).
- `forward`: the forward pass of the language model against a plain loop of torch.optim (1.05).
- `replay`: a causal transformer of 124 million weights, AdamW in bfloat16, T = 200: an exact
  hypergradient against plain training (goal: 4.0 times), and the peak memory against that of plain
  training and the snapshots (goal: 1.5 times).
"""

import argparse
import json
import statistics
import subprocess
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn

from drmad_workers import L2, Problem, Replay, Shortcut, TrainingConfig, Tuner
from drmad_workers.hyperparameters.base import Kind
from drmad_workers.replica_batch import ReplicaBatch
from drmad_workers.training import cuda_graph
from hypergradient_costs.transformer import Transformer, next_token_loss, sentences

DEVICE = torch.device("cuda")
KINDS: list[Kind] = [L2("layer", init=-9.0)]
LENGTH = 256


def why_not() -> str | None:
    """Why nothing can be measured here; None on a GPU."""
    if torch.version.cuda is None:
        return f"torch {torch.__version__} is a build without CUDA"
    if not torch.cuda.is_available():
        return "torch finds no GPU here"
    return None


def machine() -> dict[str, Any]:
    chip = torch.cuda.get_device_properties(0)
    return {
        "chip": chip.name,
        "memory_bytes": chip.total_memory,
        "driver": driver(),
        "cuda": torch.version.cuda,
        "torch": torch.__version__,
        "date": date.today().isoformat(),
    }


def driver() -> str:
    asked = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    return subprocess.run(asked, capture_output=True, text=True, check=True).stdout.split()[0]


def seconds(work: Callable[[], Any], repeats: int) -> float:
    """The median of several runs after one that warms up."""
    taken = []
    for number in range(repeats + 1):
        torch.cuda.synchronize()
        began = time.perf_counter()
        work()
        torch.cuda.synchronize()
        if number:
            taken.append(time.perf_counter() - began)
    return statistics.median(taken)


def small_problem() -> Problem:
    draw = torch.Generator().manual_seed(0)

    def part(rows: int) -> tuple[Tensor, Tensor]:
        images = torch.randn(rows, 784, generator=draw)
        return images, torch.randint(10, (rows,), generator=draw)

    layers: list[nn.Module] = []
    for inputs, outputs in ((784, 50), (50, 50), (50, 50)):
        layers += [nn.Linear(inputs, outputs), nn.Tanh()]
    model = nn.Sequential(*layers, nn.Linear(50, 10))
    return Problem(model, part(5000), part(1000), initialize="reset")


def small_step(steps: int, repeats: int) -> dict[str, Any]:
    training = TrainingConfig("sgd", steps, 50, 0.05, 0.9)
    tuner = Tuner(small_problem(), KINDS, training, Shortcut(), device=DEVICE)
    recorded = seconds(lambda: tuner.train(tuner.initial_values()), repeats)
    with patch.object(cuda_graph, "recordable", lambda _: False):
        eager = seconds(lambda: tuner.train(tuner.initial_values()), repeats)
    return {"eager_s": eager / steps, "recorded_s": recorded / steps, "ratio": eager / recorded}


def eight_replicas(steps: int, repeats: int) -> dict[str, Any]:
    training = TrainingConfig("sgd", steps, 50, 0.05, 0.9)
    method = Shortcut(max_adjoint_change=None)
    found: dict[int, float] = {}
    reason = None
    for count in (1, 8):
        batch = ReplicaBatch(
            small_problem(), KINDS, training, method, replicas=range(count), device=DEVICE
        )
        values, reason = batch.initial_values(), batch.reason
        found[count] = seconds(lambda b=batch, v=values: b.evaluate(v, 0), repeats)  # type: ignore[misc]
    ratio = found[8] / found[1]
    return {"one_s": found[1], "eight_s": found[8], "ratio": ratio, "not_batched": reason}


def language_model(quick: bool) -> Problem:
    shape = (512, 128, 2, 4) if quick else (50304, 768, 12, 12)
    words, width, layers, heads = shape
    model = Transformer(words, width, layers, heads, LENGTH)
    train, valid = (sentences(rows, words, LENGTH, seed) for rows, seed in ((512, 1), (32, 2)))
    return Problem(model, train, valid, loss=next_token_loss)


def plain(problem: Problem, steps: int, rows: int, rate: float) -> Callable[[], None]:
    """A loop of torch.optim on the same model, in bfloat16 by autocast."""
    model = problem.model.to(DEVICE, torch.float32).train()
    tokens = problem.train[0].to(DEVICE)

    def train() -> None:
        optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.1, fused=True)
        for step in range(steps):
            first = step * rows % (len(tokens) - rows + 1)
            batch = tokens[first : first + rows]
            with torch.autocast("cuda", torch.bfloat16):
                loss = next_token_loss(model(batch), batch).mean()
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()

    return train


def of_language_model(quick: bool, repeats: int) -> dict[str, Any]:
    steps, rows = (20, 4) if quick else (200, 8)
    problem = language_model(quick)
    train = plain(problem, steps, rows, 1e-5)
    torch.cuda.reset_peak_memory_stats()
    plain_s = seconds(train, repeats)
    plain_bytes = torch.cuda.max_memory_allocated()
    training = TrainingConfig(
        "adamw", steps, rows, 1e-5, weight_decay=0.1, precision="bfloat16", evaluation_rows=rows
    )
    method = Replay()
    tuner = Tuner(problem, KINDS, training, method, device=DEVICE)
    forward_s = seconds(lambda: tuner.train(tuner.initial_values()), repeats)
    kept = tuner.replica.trajectory_bytes([method], training)[method]
    torch.cuda.reset_peak_memory_stats()
    replay_s = seconds(lambda: tuner.evaluate(tuner.initial_values(), 0), repeats)
    peak = torch.cuda.max_memory_allocated()
    return {
        "weights": sum(parameter.numel() for parameter in problem.model.parameters()),
        "plain_s": plain_s,
        "forward_ratio": forward_s / plain_s,
        "replay_ratio": replay_s / plain_s,
        "plain_bytes": plain_bytes,
        "snapshot_bytes": kept,
        "peak_bytes": peak,
        "memory_ratio": peak / (plain_bytes + kept),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="smaller models: a minute")
    parser.add_argument("--json", type=Path, help="where all figures go")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    reason = why_not()
    if reason is not None:
        print(f"Not measured: {reason}.")
        if options.json is not None:
            options.json.write_text(json.dumps({"not_measured": reason}))
        return
    steps, repeats = (100, 1) if options.quick else (1000, options.repeats)
    found = {
        "machine": machine(),
        "small step": small_step(steps, repeats),
        "eight replicas": eight_replicas(100, repeats),
        "language model": of_language_model(options.quick, min(repeats, 2)),
    }
    print(json.dumps(found["machine"]))
    print("| figure | measured | goal |")
    print("|---|---|---|")
    model = found["language model"]
    for name, figure, goal in (
        ("recorded steps, times as fast as eager ones", found["small step"]["ratio"], "5"),
        ("eight batched replicas, seconds times one", found["eight replicas"]["ratio"], "1.5"),
        ("forward pass, seconds times a plain loop", model["forward_ratio"], "1.05"),
        ("replay, seconds times plain training", model["replay_ratio"], "4.0"),
        ("peak memory, times plain and snapshots", model["memory_ratio"], "1.5"),
    ):
        print(f"| {name} | {figure:.2f} | {goal} |")
    if options.json is not None:
        options.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
