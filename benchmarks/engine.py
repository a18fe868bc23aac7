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
- usual: a transformer by AdamW and a ResNet-8 by SGD, beside a plain loop, torchopt and bergson.
- large: models of 10 and 50 million weights for a few steps, memory in copies of the weights.

Figures that need a GPU are left out without one.
"""

import argparse
import json
import os
import platform
from datetime import date
from pathlib import Path
from typing import Any

import torch

from hypergradient_costs.isolated_runs import limit, memory, one, peers
from hypergradient_costs.large_models import large, one_large
from hypergradient_costs.report import report
from hypergradient_costs.resnet import resnet
from hypergradient_costs.timings import graph, replicas, speed
from hypergradient_costs.traces import traces
from hypergradient_costs.usual_models import one_usual, usual

PARTS = {
    "speed": speed,
    "peers": peers,
    "limit": limit,
    "memory": memory,
    "replicas": replicas,
    "resnet": resnet,
    "graph": graph,
    "traces": traces,
    "usual": usual,
    "large": large,
}


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
    parser.add_argument("--peers", help="a python that has torchopt, higher and bergson")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--steps", type=int, nargs="+", help="T, in the place of a part's own")
    parser.add_argument("--again", type=Path, nargs="+", help="report earlier --json files")
    parser.add_argument("--rows", help="where usual or large keeps each result, to go on from it")
    parser.add_argument("--large", nargs=4, help=argparse.SUPPRESS)
    parser.add_argument("--usual", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--length", type=int, default=100, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.one:
        print(json.dumps(one(options.one, options.length, torch.device(options.device))))
        return
    if options.large:
        size, optimizer, name, steps = options.large
        print(json.dumps(one_large(size, optimizer, name, int(steps))))
        return
    if options.usual:
        name, library = options.usual
        for row in one_usual(name, options.length, library):
            print(json.dumps(row), flush=True)
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
