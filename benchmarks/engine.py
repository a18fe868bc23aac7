"""What a hypergradient costs: beside plain training, beside other libraries, in memory.

    python benchmarks/engine.py [--quick] [--only PART] [--json FILE] [--docs FILE]
        [--device cuda] [--peers PYTHON]

An MLP 784-50-50-50-10 on MNIST's files (in a folder of DRMAD_DATA_ROOTS), minibatches of 50, one
log penalty per input unit (934), one thread on a CPU. Parts:

- speed: CPU seconds over those of a loop over torch.optim.SGD, taken in turns.
- peers: beside torchopt and higher, from the same first weights and minibatches; each in a process
  of its own. PYTHON is an interpreter that has them (they are no dependency of drmad).
- limit: T = 10,000 where a process may have 8 GB of address space.
- memory: what a process takes above plain training.
- replicas: eight on one device in one batched computation, beside one.
- resnet: training alone of a ResNet-18-sized net on random 32 x 32 images, beside a plain loop.
- graph: a small model's steps per second, recorded as a CUDA graph, beside the eager loop.
- traces: one gradient and one Hessian-vector product, eager, by the engine's own trace, by make_fx
  and compiled by Inductor.

Figures that need a GPU are left out without one.
"""

import argparse
import gc
import json
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from traces import trace_lines, traces

from drmad_workers import L2, LearningRate, Problem, Replay, Shortcut, Stored, TrainingConfig, Tuner
from drmad_workers.catalog import build_problem
from drmad_workers.catalog.places import Places
from drmad_workers.data.examples import Examples
from drmad_workers.data.minibatches import Minibatches
from drmad_workers.hypergradients import Method
from drmad_workers.objective.initial_weights import initialize
from drmad_workers.random_streams import WEIGHTS, seed_of
from drmad_workers.replica_batch import ReplicaBatch
from drmad_workers.training import cuda_graph

ALPHA, GAMMA = 0.5, 0.9
LIMIT_BYTES = 8 * 2**30
PENALTY = -9.0


def problem_of() -> Problem:
    roots = [Path(r) for r in os.environ.get("DRMAD_DATA_ROOTS", "").split(os.pathsep) if r]
    places = Places(roots)
    data = {"name": "mnist", "train": 5000, "valid": 1000, "test": 0}
    return build_problem({"name": "mlp", "hidden": [50, 50, 50]}, data, places=places)


def training_of(steps: int) -> TrainingConfig:
    return TrainingConfig("damped_sgd", steps, 50, ALPHA, GAMMA)


def methods_at(steps: int) -> dict[str, Method]:
    return {
        "shortcut T/10": Shortcut(horizon=max(1, steps // 10)),
        "shortcut": Shortcut(),
        "replay": Replay(),
        "stored": Stored(),
        "DrMAD as published, T/10": Shortcut(preset="paper_tenth"),
    }


BY_HAND = "plain, penalties' gradients by hand"

COUNTED = {"plain": 1.0, BY_HAND: 1.0, "forward": 1.0}
"""Of plain training, by matrix products; for the methods see Method.cost."""


class Plain:
    """The same training as a PyTorch user writes it; also what the other libraries unroll."""

    def __init__(self, steps: int, device: torch.device) -> None:
        problem = problem_of()
        self.steps, self.device = steps, device
        tuner = Tuner(problem, [L2(per="unit", init=PENALTY)], training_of(steps), Replay())
        tuner.objective.parameters.attach()
        tuner.objective.set_hyperparameters(tuner.initial_values())
        with torch.random.fork_rng(devices=[]):
            initialize(tuner.objective, seed_of(WEIGHTS, 0, 0, 0))
        parameters = tuner.objective.parameters
        first = parameters.parts(parameters.weights.clone())
        self.model = build_problem(
            {"name": "mlp", "hidden": [50, 50, 50]}, {"name": "digits"}
        ).model
        self.model[0] = nn.Linear(784, 50)  # type: ignore[index]
        self.model.to(device)
        self.first = [part.to(device) for part in first]
        train = Examples(problem.train, "train", device, torch.float32)
        self.valid = Examples(problem.valid, "valid", device, torch.float32)
        self._minibatches = Minibatches(train, 50, (0, 0, 0))
        self.raw = torch.full((934,), PENALTY, device=device)
        self.restore()

    def restore(self) -> None:
        with torch.no_grad():
            for parameter, first in zip(self.model.parameters(), self.first, strict=True):
                parameter.copy_(first)

    def loss(self, model: nn.Module, step: int, raw: Tensor) -> Tensor:
        batch = self._minibatches.join(step)
        total = nn.functional.cross_entropy(model(batch.inputs), batch.targets)
        matrices = [p for p in model.parameters() if p.ndim > 1]
        parts = torch.split(raw.exp(), [matrix.shape[1] for matrix in matrices])
        for matrix, penalties in zip(matrices, parts, strict=True):
            total = total + (matrix.square() * penalties).sum()
        return total

    def outer(self, model: nn.Module) -> Tensor:
        return nn.functional.cross_entropy(model(self.valid.inputs), self.valid.targets)

    def train(self) -> None:
        self.restore()
        rate = ALPHA * (1.0 - GAMMA)
        optimizer = torch.optim.SGD(self.model.parameters(), lr=rate, momentum=GAMMA)
        for step in range(self.steps):
            loss = self.loss(self.model, step, self.raw)
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()

    def train_by_hand(self) -> None:
        """As `train`, but the penalties' gradients are written out, as few users do."""
        self.restore()
        rate = ALPHA * (1.0 - GAMMA)
        optimizer = torch.optim.SGD(self.model.parameters(), lr=rate, momentum=GAMMA)
        matrices = [p for p in self.model.parameters() if p.ndim > 1]
        sizes = [matrix.shape[1] for matrix in matrices]
        factors = torch.split(2.0 * self.raw.exp(), sizes)
        for step in range(self.steps):
            batch = self._minibatches.join(step)
            outputs = self.model(batch.inputs)
            optimizer.zero_grad()
            torch.autograd.backward(nn.functional.cross_entropy(outputs, batch.targets))
            with torch.no_grad():
                for matrix, factor in zip(matrices, factors, strict=True):
                    assert matrix.grad is not None
                    matrix.grad.addcmul_(matrix, factor)
            optimizer.step()


def by_higher(plain: Plain) -> Tensor:
    import higher

    raw = plain.raw.clone().requires_grad_()
    rate = ALPHA * (1.0 - GAMMA)
    optimizer = torch.optim.SGD(plain.model.parameters(), lr=rate, momentum=GAMMA)
    with higher.innerloop_ctx(plain.model, optimizer) as (model, unrolled):
        for step in range(plain.steps):
            unrolled.step(plain.loss(model, step, raw))
        return torch.autograd.grad(plain.outer(model), raw)[0]


def by_torchopt(plain: Plain) -> Tensor:
    import torchopt

    raw = plain.raw.clone().requires_grad_()
    rate = ALPHA * (1.0 - GAMMA)
    optimizer = torchopt.MetaSGD(plain.model, lr=rate, momentum=GAMMA)
    for step in range(plain.steps):
        optimizer.step(plain.loss(plain.model, step, raw))
    return torch.autograd.grad(plain.outer(plain.model), raw)[0]


PEERS: dict[str, Callable[[Plain], Tensor]] = {"higher": by_higher, "torchopt": by_torchopt}


def one(name: str, steps: int, device: torch.device) -> dict[str, Any]:
    """One hypergradient in this process: CPU seconds, peak memory, and itself."""
    Plain(3, device).train()  # what libraries load and set up when they are first used
    if name in PEERS:
        PEERS[name](Plain(3, device))
    plain = Plain(steps, device)
    if name == "plain" or name in PEERS:
        before = reset_peak()
        started = time.process_time()
        gradient = PEERS[name](plain) if name in PEERS else plain.train()
    else:
        tuner = tuner_of(steps, methods_at(steps)[name], device)
        values = tuner.initial_values()
        del plain
        before = reset_peak()
        started = time.process_time()
        gradient = tuner.evaluate(values, 0).hypergradient["l2"]
    seconds = time.process_time() - started
    peak = resident("VmHWM")
    if device.type == "cuda":
        peak = torch.cuda.max_memory_allocated(device)
    values = None if gradient is None else gradient.tolist()
    return {"name": name, "steps": steps, "seconds": seconds, "peak": peak} | {
        "growth": peak - before if device.type == "cpu" else peak,
        "gradient": values,
    }


def reset_peak() -> int:
    """Makes the process's peak of resident memory what it has now, in bytes; Linux's."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")
    return resident("VmRSS")


def resident(name: str) -> int:
    (line,) = [t for t in Path("/proc/self/status").read_text().splitlines() if t.startswith(name)]
    return 1024 * int(line.split()[1])


def tuner_of(steps: int, method: Method, device: torch.device) -> Tuner:
    kinds = [L2(per="unit", init=PENALTY)]
    return Tuner(problem_of(), kinds, training_of(steps), method, device=device)


def elsewhere(
    python: str, name: str, steps: int, device: str, limit: int | None = None
) -> dict[str, Any]:
    """`one` in a process of its own; what it said last where it failed."""

    def bound() -> None:
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))

    command = [python, __file__, "--one", name, "--length", str(steps), "--device", device]
    done = subprocess.run(command, capture_output=True, text=True, preexec_fn=bound)
    if done.returncode == 0:
        found: dict[str, Any] = json.loads(done.stdout)
        return found
    said = [line for line in done.stderr.splitlines() if line.strip()]
    why = f"signal {-done.returncode}" if done.returncode < 0 else (said or ["no message"])[-1]
    return {"name": name, "steps": steps, "failed": why[:200]}


# ---------------------------------------------------------------------- the parts


def speed(options: argparse.Namespace) -> dict[str, Any]:
    """Ratios of CPU seconds (on a GPU, of wall clock) to plain training, in turns."""
    steps, rounds = lengths(options, (200,), (2000,))[0], 3
    device = torch.device(options.device)
    plain = Plain(steps, device)
    taken: dict[str, list[float]] = {}

    def clock(name: str, work: Callable[[], object]) -> None:
        taken.setdefault(name, []).append(timed(work, device))

    tuners = {name: tuner_of(steps, method, device) for name, method in methods_at(steps).items()}
    values = tuners["replay"].initial_values()
    for _ in range(rounds):
        for name, tuner in tuners.items():
            clock("plain", plain.train)
            clock(BY_HAND, plain.train_by_hand)
            clock(name, partial(tuner.evaluate, values, 0))
        clock("forward", partial(tuners["replay"].compare, values, [Shortcut(horizon=1)]))
    base = median(taken["plain"])
    return {
        "steps": steps,
        "plain_seconds": base,
        "ratios": {name: median(seconds) / base for name, seconds in taken.items()},
        "counted": COUNTED
        | {name: method.cost(training_of(steps)) for name, method in methods_at(steps).items()},
    }


def lengths(
    options: argparse.Namespace, quick: Sequence[int], whole: Sequence[int]
) -> Sequence[int]:
    """T of a part's runs."""
    return options.steps or (quick if options.quick else whole)


def timed(work: Callable[[], object], device: torch.device) -> float:
    if device.type != "cuda":
        started = time.process_time()
        work()
        return time.process_time() - started
    torch.cuda.synchronize(device)
    started = time.perf_counter()
    work()
    torch.cuda.synchronize(device)
    return time.perf_counter() - started


def peers(options: argparse.Namespace) -> dict[str, Any]:
    """Seconds, memory and cosine beside the other libraries."""
    rows = []
    for steps in lengths(options, (100,), (100, 500, 2000)):
        names = ["plain", "replay", "shortcut", "shortcut T/10", "DrMAD as published, T/10"]
        found = [elsewhere(sys.executable, name, steps, options.device) for name in names]
        if options.peers:
            found += [elsewhere(options.peers, name, steps, options.device) for name in PEERS]
        base, exact = found[0], found[1]["gradient"]
        for row in found:
            if "failed" not in row:
                row["ratio"] = row["seconds"] / base["seconds"]
                row["above_plain_bytes"] = row["growth"] - base["growth"]
                row["cosine"] = cosine(row.pop("gradient"), exact)
        rows += found
    return {"versions": versions(options.peers), "rows": rows}


def cosine(one: Sequence[float] | None, other: Sequence[float]) -> float | None:
    if one is None:
        return None
    return float(torch.cosine_similarity(torch.tensor(one), torch.tensor(other), dim=0))


def versions(python: str | None) -> dict[str, str]:
    versions = {"torch": torch.__version__}
    if python:
        code = (
            "from importlib.metadata import version; "
            f"print(*(n + ' ' + version(n) for n in {list(PEERS)}), sep='\\n')"
        )
        done = subprocess.run([python, "-c", code], capture_output=True, text=True)
        versions |= {line.split()[0]: line.split()[1] for line in done.stdout.splitlines()}
    return versions


def limit(options: argparse.Namespace) -> dict[str, Any]:
    """T = 10,000 within 8 GB; in --quick T = 300 within 2 GB."""
    steps = lengths(options, (300,), (10_000,))[0]
    most = 2 * 2**30 if options.quick else LIMIT_BYTES
    rows = []
    for name in ("replay", "shortcut", *PEERS):
        python = options.peers if name in PEERS else sys.executable
        if python:
            row = elsewhere(python, name, steps, options.device, most)
            row.pop("gradient", None)
            rows.append(row)
    return {"steps": steps, "limit_bytes": most, "rows": rows}


def memory(options: argparse.Namespace) -> dict[str, Any]:
    """Peak of a process above that of plain training, at several lengths."""
    rows = []
    for steps in lengths(options, (100, 400), (500, 2000, 5000)):
        base = elsewhere(sys.executable, "plain", steps, options.device)
        names = ["shortcut T/10", "shortcut", "replay"]
        if steps <= 2000:
            names.append("stored")
        for name in names:
            row = elsewhere(sys.executable, name, steps, options.device)
            row.pop("gradient", None)
            row["above_plain_bytes"] = row["growth"] - base["growth"]
            method = methods_at(steps)[name]
            row["path_bytes"] = round(method.copies(training_of(steps)) * 4 * 45_510)
            rows.append(row)
    return {"rows": rows}


def replicas(options: argparse.Namespace) -> dict[str, Any]:
    """Eight replicas batched over one alone; with 8 separate runs it would be 8."""
    steps = lengths(options, (50,), (300,))[0]
    device = torch.device(options.device)
    rows = []
    for name, method in {
        "shortcut T/10": Shortcut(horizon=steps // 10, max_adjoint_change=None),
        "replay": Replay(),
    }.items():
        single = tuner_of(steps, method, device)
        kinds = [L2(per="unit", init=PENALTY)]
        many = ReplicaBatch(
            problem_of(), kinds, training_of(steps), method, replicas=range(8), device=device
        )
        values = single.initial_values()
        assert many.reason is None
        taken: dict[str, list[float]] = {"one": [], "eight": []}
        for _ in range(3):
            taken["one"].append(timed(partial(single.evaluate, values, 0), device))
            taken["eight"].append(timed(partial(many.evaluate, values, 0), device))
        rows.append({"method": name, "ratio": median(taken["eight"]) / median(taken["one"])})
    return {"steps": steps, "rows": rows}


class Block(nn.Module):
    """Two convolutions beside a shortcut, of ResNet-18."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(before, after, 3, stride, 1, bias=False),
            nn.BatchNorm2d(after),
            nn.ReLU(),
            nn.Conv2d(after, after, 3, 1, 1, bias=False),
            nn.BatchNorm2d(after),
        )
        self.beside: nn.Module = nn.Identity()
        if stride != 1 or before != after:
            projection = nn.Conv2d(before, after, 1, stride, bias=False)
            self.beside = nn.Sequential(projection, nn.BatchNorm2d(after))

    def forward(self, inputs: Tensor) -> Tensor:
        return torch.relu(self.body(inputs) + self.beside(inputs))


def resnet18() -> nn.Module:
    """ResNet-18 for 32 x 32 images, 11.2 million weights."""
    widths = (64, 64, 64, 128, 128, 256, 256, 512, 512)
    blocks = [
        Block(before, after, 2 if after > before else 1) for before, after in pairwise(widths)
    ]
    stem = (nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.BatchNorm2d(64), nn.ReLU())
    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 10))
    return nn.Sequential(*stem, *blocks, *head)


def resnet(options: argparse.Namespace) -> dict[str, Any]:
    """Training alone, of a ResNet-18-sized net on random 32 x 32 images, beside a plain loop."""
    device = torch.device(options.device)
    gpu = device.type == "cuda"
    steps, rows = lengths(options, (2,), (200,) if gpu else (4,))[0], 128 if gpu else 16
    draw = torch.Generator().manual_seed(0)

    def part(count: int) -> tuple[Tensor, Tensor]:
        images = torch.randn(count, 3, 32, 32, generator=draw)
        return images, torch.randint(10, (count,), generator=draw)

    loss = nn.CrossEntropyLoss(reduction="none")
    problem = Problem(resnet18(), part(4 * rows), part(rows), loss=loss)
    training = TrainingConfig("sgd", steps, rows, 0.01, GAMMA)
    tuner = Tuner(problem, [LearningRate()], training, Replay(), device=device)
    values = tuner.initial_values()
    model = resnet18().to(device)
    minibatches = Minibatches(tuner.train_examples, rows, (0, 0, 0))

    def plain() -> None:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=GAMMA)
        for step in range(steps):
            batch = minibatches.join(step)
            optimizer.zero_grad()
            torch.autograd.backward(loss(model(batch.inputs), batch.targets).mean())
            optimizer.step()

    taken: dict[str, list[float]] = {"plain": [], "drmad": []}
    for _ in range(3):
        taken["plain"].append(timed(plain, device))
        taken["drmad"].append(timed(partial(tuner.train, values), device))
    return {
        "steps": steps,
        "rows": rows,
        "weights": sum(p.numel() for p in model.parameters()),
        "plain_seconds": median(taken["plain"]),
        "ratio": median(taken["drmad"]) / median(taken["plain"]),
    }


def graph(options: argparse.Namespace) -> dict[str, Any]:
    """Steps per second of the small model's training, recorded as a CUDA graph and eagerly."""
    device = torch.device(options.device)
    if device.type != "cuda":
        return {"needs": "a GPU"}
    steps = lengths(options, (300,), (2000,))[0]
    tuner = tuner_of(steps, Shortcut(horizon=1), device)
    values = tuner.initial_values()

    def rate() -> float:
        return steps / median(timed(partial(tuner.train, values), device) for _ in range(3))

    recorded = rate()
    with patch.object(cuda_graph, "recordable", lambda run: False):
        return {"steps": steps, "recorded": recorded, "eager": rate()}


PARTS = {
    "speed": speed,
    "peers": peers,
    "limit": limit,
    "memory": memory,
    "replicas": replicas,
    "resnet": resnet,
    "graph": graph,
    "traces": traces,
}

# ---------------------------------------------------------------------- the report


def mb(count: float) -> str:
    return f"{count / 2**20:.0f} MB"


def report(found: Mapping[str, Any]) -> str:
    """The section of docs/reference/benchmarks.md."""
    lines = [
        "## The engine",
        "",
        "MLP 784-50-50-50-10, minibatches of 50, one log penalty per input unit (934), MNIST's",
        f"files, α {ALPHA}, γ {GAMMA}, float32. {found['machine']}. {found['date']}.",
        "",
        f"    {found['command']}",
    ]
    if part := found.get("speed"):
        lines += [
            "",
            f"### Speed: T = {part['steps']}, times a loop over torch.optim.SGD "
            f"({part['plain_seconds']:.2f} CPU s)",
            "",
            "| | measured | times plain by hand | counted in matrix products |",
            "|---|---|---|---|",
        ]
        by_hand = part["ratios"][BY_HAND]
        for name, ratio in part["ratios"].items():
            counted = part["counted"][name]
            lines.append(f"| {name} | {ratio:.2f} | {ratio / by_hand:.2f} | {counted:.1f} |")
    if part := found.get("peers"):
        versions = ", ".join(f"{name} {version}" for name, version in part["versions"].items())
        lines += [
            "",
            f"### Beside other libraries ({versions})",
            "",
            "| T | method | CPU s | times plain | above plain training | cosine to exact |",
            "|---|---|---|---|---|---|",
        ]
        for row in part["rows"]:
            if "failed" in row:
                lines.append(f"| {row['steps']} | {row['name']} | {row['failed']} | | | |")
                continue
            alike = "" if row["cosine"] is None else f"{row['cosine']:.2f}"
            lines.append(
                f"| {row['steps']} | {row['name']} | {row['seconds']:.2f} | {row['ratio']:.1f} | "
                f"{mb(row['above_plain_bytes'])} | {alike} |"
            )
    if part := found.get("limit"):
        lines += [
            "",
            f"### T = {part['steps']} in {part['limit_bytes'] / 2**30:.0f} GB of address space",
            "",
            "| method | outcome |",
            "|---|---|",
        ]
        for row in part["rows"]:
            done = f"{row['seconds']:.0f} CPU s, peak {mb(row['peak'])}" if "peak" in row else ""
            lines.append(f"| {row['name']} | {done or row['failed']} |")
    if part := found.get("memory"):
        lines += [
            "",
            "### Memory above plain training: peak of a process of its own",
            "",
            "| T | method | measured | kept of the path, counted |",
            "|---|---|---|---|",
        ]
        for row in part["rows"]:
            lines.append(
                f"| {row['steps']} | {row['name']} | {mb(row['above_plain_bytes'])} | "
                f"{row['path_bytes'] / 2**20:.1f} MB |"
            )
    if part := found.get("replicas"):
        lines += [
            "",
            f"### Eight replicas in one batched computation, times one (T = {part['steps']})",
            "",
            "| method | times one |",
            "|---|---|",
        ]
        lines += [f"| {row['method']} | {row['ratio']:.1f} |" for row in part["rows"]]
    if part := found.get("resnet"):
        lines += [
            "",
            "### A ResNet-18-sized net",
            "",
            f"{part['weights']:,} weights, 32 x 32 images, {part['steps']} steps on {part['rows']} "
            f"of them: training by drmad, held-out figures included, takes {part['ratio']:.2f} "
            f"times a plain loop ({part['plain_seconds']:.1f} s).",
        ]
    if part := found.get("traces"):
        lines += trace_lines(part)
    if part := found.get("graph"):
        lines += ["", "### A step recorded as a CUDA graph", ""]
        if "needs" in part:
            lines.append(f"Not run: needs {part['needs']}.")
        else:
            times = part["recorded"] / part["eager"]
            lines.append(
                f"{part['recorded']:.0f} steps per second, {times:.1f} times those of the eager "
                f"loop ({part['eager']:.0f})."
            )
    return "\n".join(lines) + "\n"


def machine(device: str) -> str:
    if device != "cpu":
        return f"{torch.cuda.get_device_name(torch.device(device))}, torch {torch.__version__}"
    model = platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        model = names[0].partition(":")[2].strip() if names else model
    load = os.getloadavg()[0]
    return (
        f"{model}, {os.cpu_count()} cores (load {load:.0f} at the end), one thread, torch "
        f"{torch.__version__}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="short runs, under two minutes")
    parser.add_argument("--only", choices=PARTS, action="append", help="this part; repeatable")
    parser.add_argument("--json", type=Path, help="where all figures go; parts there are kept")
    parser.add_argument("--docs", type=Path, help="where the section for docs/ goes")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--peers", help="a python that has torchopt and higher")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--steps", type=int, nargs="+", help="T, in the place of a part's own")
    parser.add_argument("--again", type=Path, nargs="+", help="report earlier --json files")
    parser.add_argument("--length", type=int, default=100, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.one:
        print(json.dumps(one(options.one, options.length, torch.device(options.device))))
        return
    found: dict[str, Any] = {}
    if options.json and options.json.exists():
        found = json.loads(options.json.read_text())
    for earlier in options.again or ():
        found |= json.loads(earlier.read_text())
    for name in () if options.again else options.only or PARTS:
        found[name] = PARTS[name](options)
        found |= {
            "machine": machine(options.device),
            "date": date.today().isoformat(),
            "command": "python benchmarks/engine.py" + " --quick" * options.quick,
        }
        if options.json:
            options.json.write_text(json.dumps(found, indent=1))
    print(report(found))
    if options.docs:
        options.docs.write_text(report(found))


if __name__ == "__main__":
    main()
