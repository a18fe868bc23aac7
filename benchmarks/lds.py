"""Whether scores of training examples predict retraining without them, and what they cost.

    python benchmarks/lds.py [--quick] [--only TEXT] [--seeds 5] [--json lds.jsonl]
    python benchmarks/lds.py --json lds.jsonl --tables

A cell is a training run on digits with a weight for every example. Random subsets of 1, 5 and 10 %
of the examples are left out, and the model is trained again under the same seeds; the LDS is the
rank correlation of predicted and actual changes of the validation loss, as the mean over the three
sizes. Exact hypergradients and shortcuts stand beside TracIn and influence functions, whose best
damping is shown. Costs are CPU seconds over those of a plain loop of torch.optim, on one thread.
Each cell and seed is a line of the --json file; those that are there are not measured again.
"""

import argparse
import json
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # of the experiments
import torch

from lds_study.cells import CELLS
from lds_study.measurement import measure
from lds_study.tables import report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one cell, few changes: a minute")
    parser.add_argument("--json", type=Path, help="where all figures go, a line for each run")
    parser.add_argument("--only", default="", help="measure the cells whose name contains this")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--changes", type=int, default=30, help="retrainings for each size")
    parser.add_argument("--seconds", type=float, default=1e9, help="start no cell after these")
    parser.add_argument("--tables", action="store_true", help="print the tables, measure nothing")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.quick:
        options.only, options.seeds, options.changes = CELLS[0].name, 1, 5
    kept = options.json is not None and options.json.exists()
    lines = options.json.read_text().splitlines() if kept else []
    results = [json.loads(line) for line in lines]
    known = {(result["cell"], result["seed"]) for result in results}
    started = time.monotonic()
    for seed in range(options.seeds):
        for cell in CELLS:
            skipped = options.only not in cell.name or (cell.name, seed) in known
            if options.tables or skipped or time.monotonic() - started > options.seconds:
                continue
            result = measure(cell, seed, options.changes)
            results.append(result)
            if options.json is not None:
                with options.json.open("a") as file:
                    file.write(json.dumps(result) + "\n")
            short = {n: round(m["lds"] or 0.0, 2) for n, m in result["methods"].items()}
            print(f"{cell.name}, seed {seed}: {short}", flush=True)
    if results:
        print(report(results))


if __name__ == "__main__":
    main()
