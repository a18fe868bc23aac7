"""One hypergradient in a process of its own: beside other libraries, within a limit, its memory."""

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hypergradient_costs.measurement import lengths, reset_peak, resident
from hypergradient_costs.mnist_mlp import methods_at, training_of, tuner_of
from hypergradient_costs.peer_libraries import PEERS, versions
from hypergradient_costs.plain_training import Plain

SCRIPT = Path(__file__).parents[1] / "engine.py"
LIMIT_BYTES = 8 * 2**30


def one(name: str, steps: int, device: torch.device) -> dict[str, Any]:
    """One hypergradient in this process: CPU seconds, peak memory, and itself."""
    Plain(3, device).train()  # what libraries load and set up when they are first used
    if name in PEERS:
        PEERS[name](Plain(3, device))
    plain = Plain(steps, device)
    gradient: Tensor | None = None
    if name == "plain" or name in PEERS:
        before = reset_peak()
        started = time.process_time()
        if name in PEERS:
            gradient = PEERS[name](plain)
        else:
            plain.train()
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
    return {"name": name, "steps": steps, "seconds": seconds, "peak": peak} | {
        "growth": peak - before if device.type == "cpu" else peak,
        "gradient": None if gradient is None else gradient.tolist(),
    }


def elsewhere(
    python: str, name: str, steps: int, device: str, limit: int | None = None
) -> dict[str, Any]:
    """`one` in a process of its own; what it said last where it failed."""

    def bound() -> None:
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))

    command = [python, str(SCRIPT), "--one", name, "--length", str(steps), "--device", device]
    done = subprocess.run(command, capture_output=True, text=True, preexec_fn=bound)
    if done.returncode == 0:
        found: dict[str, Any] = json.loads(done.stdout)
        return found
    said = [line for line in done.stderr.splitlines() if line.strip()]
    why = f"signal {-done.returncode}" if done.returncode < 0 else (said or ["no message"])[-1]
    return {"name": name, "steps": steps, "failed": why[:200]}


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
