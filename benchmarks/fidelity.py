"""How far every method can be trusted, at which cost, over the range of problems that drmad meets.

    python benchmarks/fidelity.py [--quick] [--only TEXT] [--json FILE] [--docs FOLDER]
    python benchmarks/fidelity.py --recipes FILE [--only TEXT] [--no-measuring] [--docs FOLDER]

Cells that stand in the file already are not measured again. --recipes measures the cells that
train what people train (a transformer, a ResNet, an LSTM and a table, by their usual recipes). Each
result is a line that the file gains, so that an interrupted run goes on where it was.

A cell is one training problem. Its hypergradient by `replay` is exact; every other method is held
against it on the same run: cosine, agreement of signs, relative length (the worst where several
kinds are tuned). The cost of a meta-iteration is reported twice, in plain training runs: counted in
matrix products (the floor), and as CPU seconds on one thread against a loop over torch.optim.SGD.
Then `auto` itself runs until it has chosen, and its choice is held against the exact hypergradient
in the *next* meta-iteration's run. MNIST's files are found in the folders of DRMAD_DATA_ROOTS.
"""

import argparse
import json
import os
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch

from drmad_workers import evaluation
from drmad_workers.hypergradients import backward_pass
from fidelity_study.cells import QUICK, all_cells
from fidelity_study.measurement import measure
from fidelity_study.pareto_plot import pareto
from fidelity_study.recipe_cells import recipe_cells
from fidelity_study.recipe_measurement import measure_recipe
from fidelity_study.recipe_tables import recipe_report, recipe_table
from fidelity_study.tables import report, table


def main() -> None:
    # On a machine that others use too: seconds are those that this process had.
    clock = SimpleNamespace(perf_counter=time.process_time)
    with patch.object(backward_pass, "time", clock), patch.object(evaluation, "time", clock):
        run()


def run() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="seven cells, two minutes")
    parser.add_argument("--only", default="", help="cells whose name contains this")
    parser.add_argument("--json", type=Path, help="where all figures go")
    parser.add_argument(
        "--again", type=Path, nargs="+", help="report the figures of earlier --json files"
    )
    parser.add_argument("--docs", type=Path, help="docs/: where the results page and the plot go")
    parser.add_argument("--recipes", type=Path, help="where the lines of the recipes' cells go")
    parser.add_argument("--no-measuring", action="store_true", help="reports what is in the file")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.recipes:
        run_recipes(options.recipes, options.only, not options.no_measuring, options.docs)
        return
    roots = [Path(r) for r in os.environ.get("DRMAD_DATA_ROOTS", "").split(os.pathsep) if r]
    results: list[dict[str, Any]] = []
    if options.again:
        for earlier in options.again:
            results += json.loads(earlier.read_text())["cells"]
    else:
        if options.json and options.json.exists():
            results = json.loads(options.json.read_text())["cells"]
        known = {result["cell"] for result in results}
        for cell in QUICK if options.quick else all_cells():
            if options.only not in cell.name or cell.name in known:
                continue
            results.append(measure(cell, roots))
            print(table(results[-1:]).splitlines()[-1], flush=True)
            if options.json:
                options.json.write_text(json.dumps({"cells": results}, indent=1))
    print(report(results))
    if options.docs:
        (options.docs / "images").mkdir(parents=True, exist_ok=True)
        (options.docs / "concepts").mkdir(exist_ok=True)
        (options.docs / "concepts" / "fidelity-results.md").write_text(
            "# Fidelity: results\n\n" + report(results)
        )
        (options.docs / "images" / "fidelity-pareto.svg").write_text(pareto(results))


def run_recipes(file: Path, only: str, measuring: bool, docs: Path | None) -> None:
    lines = file.read_text().splitlines() if file.exists() else []
    results = {found["cell"]: found for found in map(json.loads, lines)}
    for cell in recipe_cells() if measuring else ():
        if only in cell.name and cell.name not in results:
            found = results[cell.name] = measure_recipe(cell)
            with file.open("a") as opened:
                opened.write(json.dumps(found) + "\n")
            print(recipe_table([found]).splitlines()[-1], flush=True)
    ordered = [results[cell.name] for cell in recipe_cells() if cell.name in results]
    print(recipe_report(ordered))
    if docs:
        page = docs / "concepts" / "fidelity-recipes.md"
        page.write_text("# Fidelity: what people train\n\n" + recipe_report(ordered))


if __name__ == "__main__":
    main()
