"""What an attribution of many queries costs, in plain training runs.

    python benchmarks/attribution.py [--quick] [--only TEXT] [--json attribution.jsonl]

The cells are calm training runs of lds.py on digits. For Q = 1, 8, 32 and 128 validation rows as
queries, one pass by replay (exact) and one by the shortcut stand beside a training run of the
engine without a backward pass: CPU seconds on one thread, the smallest of three, alternating.
Each cell, method and Q is a line of the --json file; those that are there are not measured again.
"""

import argparse
import json
import time
from pathlib import Path

import torch

from drmad_workers import Method, Replay, Shortcut
from drmad_workers.attribution.attributor import Attributor
from lds_study.cells import CELLS, Cell

METHODS: dict[str, Method] = {"replay": Replay(), "shortcut": Shortcut()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one cell, two Q: seconds")
    parser.add_argument("--json", type=Path, help="where all figures go, a line for each")
    parser.add_argument("--only", default="", help="measure the cells whose name contains this")
    options = parser.parse_args()
    torch.set_num_threads(1)
    cells = [cell for cell in CELLS if cell.calm and options.only in cell.name]
    queries = [1, 8, 32, 128]
    if options.quick:
        cells, queries = cells[:1], queries[:2]
    kept = options.json is not None and options.json.exists()
    results = [json.loads(line) for line in options.json.read_text().splitlines()] if kept else []
    known = {(each["cell"], each["method"], each["queries"]) for each in results}
    for cell in cells:
        for name in METHODS:
            for count in queries:
                if (cell.name, name, count) in known:
                    continue
                result = measure(cell, name, count, 1 if options.quick else 3)
                results.append(result)
                if options.json is not None:
                    with options.json.open("a") as file:
                        file.write(json.dumps(result) + "\n")
    print(report(results))


def measure(cell: Cell, method: str, queries: int, repetitions: int) -> dict[str, object]:
    asked = [f"rows:0-{queries - 1}"]
    attributor = Attributor(cell.problem(), cell.training(), METHODS[method], asked)
    plain, passes = [], []
    attributor.scores()
    for _ in range(repetitions):
        began = time.process_time()
        attributor.values_without(None)
        trained = time.process_time()
        attributor.scores()
        plain.append(trained - began)
        passes.append(time.process_time() - trained)
    return {
        "cell": cell.name,
        "method": method,
        "queries": queries,
        "plain_s": min(plain),
        "pass_s": min(passes),
        "ratio": min(passes) / min(plain),
    }


def report(results: list[dict[str, object]]) -> str:
    lines = [
        "| training | method | queries | plain run, s | pass, s | ratio |",
        "|---|---|--:|--:|--:|--:|",
    ]
    lines += [
        f"| {r['cell']} | {r['method']} | {r['queries']} | {r['plain_s']:.2f} | {r['pass_s']:.2f} "
        f"| {r['ratio']:.1f} |"
        for r in results
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
