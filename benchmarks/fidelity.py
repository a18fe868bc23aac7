"""How far every method can be trusted, at which cost, over the range of problems that drmad meets.

    python benchmarks/fidelity.py [--quick] [--only TEXT] [--json FILE] [--docs FOLDER]

Cells that stand in the --json file already are not measured again.

A cell is one training problem. Its hypergradient by `replay` is exact; every other method is held
against it on the same run: cosine, agreement of signs, relative length (the worst where several
kinds are tuned). The cost of a meta-iteration is reported twice, in plain training runs: counted in
matrix products (the floor), and as CPU seconds on one thread against a loop over torch.optim.SGD.
Then `auto`'s rule is applied to the cell, and what it chose is held against `replay` on the *next*
meta-iteration's run. MNIST's files are found in the folders of DRMAD_DATA_ROOTS.
"""

import argparse
import json
import os
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn

from drmad_workers import (
    L2,
    MetaConfig,
    Problem,
    Replay,
    SampleWeight,
    Shortcut,
    TrainingConfig,
    Tuner,
    tune,
    tuning,
)
from drmad_workers.catalog import Places, build_problem
from drmad_workers.hypergradients import Method, backward_pass
from drmad_workers.hypergradients.agreement import agreement
from drmad_workers.hypergradients.auto import MARGIN, STORED_BYTES, candidates, settings_of
from drmad_workers.hypergradients.backward_pass import BackwardPass
from drmad_workers.hypergradients.stored import Stored
from drmad_workers.hyperparameters.base import Kind
from drmad_workers.hyperparameters.learning_rate import LearningRate

THRESHOLD = 0.8
ITERATIONS = 20
PROBES = (0, 5, 15)
"""Where `auto` probes in the first ITERATIONS, if every probe confirms the choice."""

MILD, HARSH = 0.05, 0.5


@dataclass(frozen=True)
class Cell:
    """One training problem; α in the papers' convention (damped_sgd)."""

    kind: str
    model: str
    steps: int
    learning_rate: float
    momentum: float = 0.9
    tuned: bool = False

    @property
    def name(self) -> str:
        how = "mild" if self.learning_rate == MILD else "harsh"
        rest = "" if self.momentum == 0.9 else f" γ={self.momentum}"
        return f"{self.kind} {self.model} {how} T={self.steps}{rest}{' tuned' * self.tuned}"

    @property
    def harsh(self) -> bool:
        return self.learning_rate == HARSH

    def training(self) -> TrainingConfig:
        rows = 100 if self.kind == "sample_weight" else 50
        return TrainingConfig("damped_sgd", self.steps, rows, self.learning_rate, self.momentum)

    def kinds(self) -> list[Kind]:
        kinds: dict[str, Kind] = {
            "l2": L2(per="unit"),
            "sample_weight": SampleWeight(),
            "learning_rate": LearningRate(per="layer"),
        }
        return [kinds[self.kind]]

    def problem(self, roots: Sequence[Path]) -> Problem:
        hidden = [50] if self.model == "mlp-50" else [50, 50, 50]
        noise = 0.5 if self.kind == "sample_weight" else 0.0
        data = {"name": "mnist", "train": 5000, "valid": 1000, "test": 0, "label_noise": noise}
        problem = build_problem({"name": "mlp", "hidden": hidden}, data, places=Places(roots))
        if self.model == "cnn":
            torch.manual_seed(0)
            problem.model = nn.Sequential(
                nn.Unflatten(1, (1, 28, 28)),
                nn.Conv2d(1, 8, 5, stride=2),
                nn.Tanh(),
                nn.Conv2d(8, 16, 3, stride=2),
                nn.Tanh(),
                nn.Flatten(),
                nn.Linear(400, 10),
            )
        return problem


def all_cells() -> list[Cell]:
    lengths, rates = (100, 500, 1000, 2000, 5000), (MILD, HARSH)
    cells = [Cell("l2", "mlp-50-50-50", t, a) for t in lengths for a in rates]
    cells += [Cell("sample_weight", "mlp-50", t, a) for t in lengths for a in rates]
    cells += [Cell("learning_rate", "mlp-50-50-50", t, a) for t in (100, 500, 1000) for a in rates]
    cells += [Cell("l2", "mlp-50-50-50", 500, a, g) for g in (0.1, 0.5, 0.95) for a in rates]
    cells += [Cell("sample_weight", "mlp-50", 500, a, g) for g in (0.1, 0.95) for a in rates]
    cells += [Cell(kind, "cnn", 200, a) for kind in ("l2", "sample_weight") for a in rates]
    cells += [Cell("l2", "mlp-50-50-50", 500, a, tuned=True) for a in rates]
    cells += [Cell("sample_weight", "mlp-50", 500, a, tuned=True) for a in rates]
    return sorted(cells, key=lambda cell: cell.steps)


QUICK = (
    Cell("l2", "mlp-50-50-50", 100, MILD),
    Cell("l2", "mlp-50-50-50", 500, MILD),
    Cell("l2", "mlp-50-50-50", 100, HARSH),
    Cell("sample_weight", "mlp-50", 500, MILD),
    Cell("sample_weight", "mlp-50", 500, HARSH),
    Cell("sample_weight", "mlp-50", 1000, HARSH),
    Cell("learning_rate", "mlp-50-50-50", 100, MILD),
)


def methods_of(cell: Cell) -> dict[str, Method]:
    """What is measured in a cell, by a name that is the same in every cell."""
    training = cell.training()
    part = {f"T/{n}": max(1, training.steps // n) for n in (2, 4, 10)}
    methods: dict[str, Method] = {"shortcut": Shortcut()}
    methods |= {f"shortcut {name}": Shortcut(horizon=n) for name, n in part.items()}
    methods["replay T/2"] = Replay(horizon=part["T/2"])
    methods["paper T/10"] = Shortcut(preset="paper_tenth")
    methods["15 nodes"] = Shortcut(interpolation_nodes=15)
    if cell.steps < 500:
        methods |= {
            "8 copies": Shortcut(budget=8),
            "half of the early minibatches": Shortcut(minibatch_subsampling=2),
            "single steps": Shortcut(max_stride=1, max_adjoint_change=None),
            "strides of 5": Shortcut(max_stride=5, max_adjoint_change=None),
            "4 nodes": Shortcut(interpolation_nodes=4),
            "15 nodes without averaging": Shortcut(interpolation_nodes=15, averaging_window=1),
            "15 nodes, window of 20": Shortcut(interpolation_nodes=15, averaging_window=20),
            "contraction": Shortcut(contraction=True),
            "gauss-newton": Shortcut(curvature="gauss_newton"),
            "line, contraction": Shortcut(
                interpolation_nodes=1,
                averaging_window=1,
                max_stride=1,
                max_adjoint_change=None,
                contraction=True,
            ),
            "paper": Shortcut(preset="paper"),
        }
    return methods


def measure(cell: Cell, roots: Sequence[Path]) -> dict[str, Any]:
    """Every method in one cell, and what auto makes of it."""
    training = cell.training()
    tuner = Tuner(cell.problem(roots), cell.kinds(), training, Replay())
    values = tuned_values(cell, roots) if cell.tuned else tuner.initial_values()
    methods = methods_of(cell)
    plain_chunks = plain_seconds(cell, roots)
    started = time.process_time()
    exact, exact_seconds = differentiated(cell, tuner, values, Replay())
    assert isinstance(exact, BackwardPass)
    runs = {name: differentiated(cell, tuner, values, method) for name, method in methods.items()}
    spent = time.process_time() - started
    plain = median(plain_chunks + plain_seconds(cell, roots))
    found = {"replay": row(Replay(), exact, exact_seconds / plain, exact, training)}
    for name, method in methods.items():
        backward, seconds = runs[name]
        found[name] = row(method, backward, seconds / plain, exact, training)
    return {
        "cell": cell.name,
        "harsh": cell.harsh,
        **asdict(cell),
        "plain_seconds": plain,
        "cpu_seconds": spent,
        "methods": found,
        "auto": auto_in(cell, tuner, values, found),
    }


def differentiated(
    cell: Cell, tuner: Tuner, values: Mapping[str, Tensor], method: Method
) -> tuple[BackwardPass | None, float]:
    """What the method makes of the cell's run, and the CPU seconds of both passes.

    The median of several where they are short: every repeat computes the same.
    """
    repeats = 5 if cell.steps <= 200 else 3 if cell.steps <= 1000 else 1
    backward, seconds = None, []
    for _ in range(repeats):
        (found,), forward = tuner.compare(values, [method])
        if not isinstance(found, BackwardPass):
            return None, 0.0
        backward = found
        seconds.append(forward + found.seconds)
    return backward, median(seconds)


def row(
    method: Method,
    backward: BackwardPass | None,
    measured: float,
    exact: BackwardPass,
    training: TrainingConfig,
) -> dict[str, Any]:
    """`measured` is what both passes took, in plain training runs."""
    figures: dict[str, Any] = {
        "settings": settings_of(method),
        "counted": method.cost(training),
        "copies": method.copies(training),
        "cosine": None,
        "signs": None,
        "length": None,
        "products": None,
        "seconds": None,
        "measured": None,
    }
    if backward is not None:
        figures |= asdict(agreement(backward.hypergradient, exact.hypergradient))
        figures |= {
            "products": backward.products,
            "seconds": backward.seconds,
            "measured": measured,
        }
    return figures


def auto_in(
    cell: Cell,
    tuner: Tuner,
    values: Mapping[str, Tensor],
    found: Mapping[str, Mapping[str, Any]],
) -> dict[str, Any]:
    """The rule of Auto, from the figures at hand; its choice held against the next run."""
    training = cell.training()
    small = training.steps * tuner.copy_bytes <= STORED_BYTES
    exact: Method = Stored() if small else Replay()
    least = THRESHOLD + MARGIN * (1.0 - THRESHOLD)
    by_settings = {json.dumps(f["settings"]): (name, f) for name, f in found.items()}
    chosen, name, tried = exact, exact.name, 0.0
    for candidate in candidates(training, tuner.hyperparameters.values()):
        if candidate.cost(training) >= exact.cost(training):
            continue
        label, figures = by_settings[json.dumps(settings_of(candidate))]
        tried += candidate.cost(training) - 1.0
        if figures["cosine"] is not None and figures["cosine"] >= least:
            chosen, name = candidate, label
            break
    probe = exact.cost(training) + tried
    cost = (len(PROBES) * probe + (ITERATIONS - len(PROBES)) * chosen.cost(training)) / ITERATIONS
    cosine = 1.0
    if chosen is not exact:
        (reference, backward), _ = tuner.compare(values, [Replay(), chosen], iteration=1)
        assert isinstance(reference, BackwardPass)
        cosine = 0.0
        if isinstance(backward, BackwardPass):
            cosine = agreement(backward.hypergradient, reference.hypergradient).cosine
    return {"choice": name, "cosine_next": cosine, "counted": cost, "probe": probe}


def tuned_values(cell: Cell, roots: Sequence[Path]) -> dict[str, Tensor]:
    result = tune(
        cell.problem(roots),
        cell.kinds(),
        cell.training(),
        Shortcut(horizon=cell.steps // 4),
        MetaConfig(iterations=10),
    )
    assert result.state is not None
    return result.state.hyperparameters


def plain_seconds(cell: Cell, roots: Sequence[Path]) -> list[float]:
    """CPU seconds of a loop over torch.optim.SGD on the same loss, per T steps, three times."""
    problem, training = cell.problem(roots), cell.training()
    inputs, targets = problem.train
    steps, rows = min(training.steps, 200), training.batch_size
    order = torch.randperm(len(targets), generator=torch.Generator().manual_seed(0))
    rate = training.learning_rate * (1.0 - training.momentum)
    penalty = torch.full((), -9.0).exp() if cell.kind == "l2" else None
    weights = torch.full((len(targets),), 0.5) if cell.kind == "sample_weight" else None
    found = []
    for _ in range(3):
        model = problem.model
        optimizer = torch.optim.SGD(model.parameters(), lr=rate, momentum=training.momentum)
        started = time.process_time()
        for step in range(steps):
            index = order[torch.arange(step * rows, (step + 1) * rows) % len(order)]
            losses = problem.loss(model(inputs[index]), targets[index])
            loss = losses.mean() if weights is None else (losses * weights[index]).mean()
            if penalty is not None:
                matrices = [p for p in model.parameters() if p.ndim > 1]
                loss = loss + sum((penalty * p.square()).sum() for p in matrices)
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
        found.append((time.process_time() - started) * training.steps / steps)
    return found


# ---------------------------------------------------------------------- the report


def number(value: float | None, form: str = ".2f") -> str:
    return "–" if value is None else format(value, form)


def table(results: Sequence[Mapping[str, Any]]) -> str:
    """Cosine of the main methods by cell, and auto's choice."""
    shown = (
        "shortcut",
        "shortcut T/2",
        "shortcut T/4",
        "shortcut T/10",
        "replay T/2",
        "paper T/10",
    )
    head = ["cell", *shown, "shortcut: signs, length, products/T, measured", "auto chose"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for result in results:
        methods, auto = result["methods"], result["auto"]
        main = methods["shortcut"]
        details = ", ".join(
            (
                number(main["signs"]),
                number(main["length"]),
                number(main["products"] and main["products"] / result["steps"]),
                number(main["measured"]) + "×",
            )
        )
        cells = [number(methods[name]["cosine"], ".3f") for name in shown]
        choice = f"{auto['choice']}: {auto['cosine_next']:.2f} at {auto['counted']:.1f}×"
        lines.append("| " + " | ".join([result["cell"], *cells, details, choice]) + " |")
    return "\n".join(lines)


def variants(results: Sequence[Mapping[str, Any]]) -> str:
    """Median and worst cosine of every method over the cells that have it, with its price."""
    names = list(dict.fromkeys(name for result in results for name in result["methods"]))
    lines = [
        "| method | mild: median, worst | harsh: median, worst | counted | measured | copies |",
        "|---|---|---|---|---|---|",
    ]
    for name in names:
        rows = [(r, r["methods"][name]) for r in results if name in r["methods"]]
        shown = []
        for harsh in (False, True):
            cosines = [m["cosine"] or 0.0 for r, m in rows if r["harsh"] == harsh]
            shown.append(f"{median(cosines):.2f}, {min(cosines):.2f}" if cosines else "–")
        measured = [m["measured"] for _, m in rows if m["measured"] is not None]
        price = f"{median(measured):.1f}×" if measured else "–"
        counted = median(m["counted"] for _, m in rows)
        copies = max(m["copies"] for _, m in rows)
        lines.append(
            f"| {name} | {shown[0]} | {shown[1]} | {counted:.1f}× | {price} | ≤ {copies:.0f} |"
        )
    return "\n".join(lines)


def verdicts(results: Sequence[Mapping[str, Any]]) -> list[tuple[str, bool, str]]:
    """The claims: what must hold, whether it does, and where it does not."""

    def claim(text: str, bad: Sequence[str], of: int) -> tuple[str, bool, str]:
        return (
            text,
            not bad,
            f"{of - len(bad)} of {of}" + (": not " + "; ".join(bad) if bad else ""),
        )

    mild = [r for r in results if not r["harsh"]]
    weights = [r for r in results if r["harsh"] and r["kind"] == "sample_weight"]
    main = {r["cell"]: r["methods"]["shortcut"] for r in results}

    def below(of: Sequence[Mapping[str, Any]], least: float) -> list[str]:
        return [
            f"{r['cell']} ({number(main[r['cell']]['cosine'], '.3f')})"
            for r in of
            if (main[r["cell"]]["cosine"] or 0.0) < least
        ]

    trusted = [r for r in results if r["auto"]["cosine_next"] >= THRESHOLD]
    share = len(trusted) / len(results)
    cost = median(r["auto"]["counted"] for r in results)
    replay = [r for r in results if "mlp" in r["model"]]
    slow = [
        f"{r['cell']} ({number(r['methods']['replay']['measured'])}×)"
        for r in replay
        if (r["methods"]["replay"]["measured"] or 9.0) > 4.0
    ]
    dear = [
        f"{r['cell']} ({number(main[r['cell']]['measured'])}×)"
        for r in results
        if (main[r["cell"]]["measured"] or 9.0) > 2.5
    ]
    return [
        claim("shortcut's default ≥ .95 in every mild cell", below(mild, 0.95), len(mild)),
        claim("shortcut's default ≥ .80 in every harsh sample_weight cell",
              below(weights, 0.80), len(weights)),
        claim("shortcut's default at most 2.5 times plain training, measured", dear, len(results)),
        claim("goal: shortcut's default ≥ .95 in every cell", below(results, 0.95), len(results)),
        claim("replay at most 4.0 times plain training on the MLP, measured", slow, len(replay)),
        ("auto's choice ≥ .80 on the next run in 95 % of the cells", share >= 0.95,
         f"{share:.0%}" + "".join(f"; not {r['cell']} ({r['auto']['cosine_next']:.2f})"
                                  for r in results if r not in trusted)),
        ("auto's median cost, fidelity probes included, at most 2.5 times", cost <= 2.5,
         f"{cost:.2f} times, counted"),
    ]  # fmt: skip


def pareto(results: Sequence[Mapping[str, Any]]) -> str:
    """Median cosine against measured cost, mild and harsh cells, as an SVG.

    Of the methods that every cell has: medians over others would be about other problems.
    """
    everywhere = set.intersection(*(set(result["methods"]) for result in results))
    names = [name for name in results[0]["methods"] if name in everywhere]
    width, height, left, top = 860, 460, 60, 40

    def x(cost: float) -> float:
        return left + (cost - 0.5) / 3.0 * (width - left - 110)

    def y(cosine: float) -> float:
        return top + (1.0 - max(0.0, cosine)) * (height - 2 * top)

    marks = [
        f'<line x1="{left}" x2="{width - 20}" y1="{y(v):.0f}" y2="{y(v):.0f}" stroke="#ddd"/>'
        f'<text x="{left - 8}" y="{y(v) + 4:.0f}" text-anchor="end">{v:.1f}</text>'
        for v in (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
    ]
    marks += [
        f'<text x="{x(v):.0f}" y="{height - 18}" text-anchor="middle">{v:g}×</text>'
        for v in (0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5)
    ]
    taken: list[tuple[float, float]] = []
    for harsh, colour in ((False, "#1a7f5a"), (True, "#b3402a")):
        for name in names:
            rows = [r["methods"][name] for r in results
                    if name in r["methods"] and r["harsh"] == harsh]  # fmt: skip
            if not rows:
                continue
            costs = [m["measured"] for m in rows if m["measured"] is not None]
            at = (x(median(costs)), y(median(m["cosine"] or 0 for m in rows)))
            label = at[1] + 4
            while any(abs(at[0] - px) < 90 and abs(label - py) < 12 for px, py in taken):
                label += 12
            taken.append((at[0], label))
            marks.append(
                f'<circle cx="{at[0]:.1f}" cy="{at[1]:.1f}" r="4" fill="{colour}"/>'
                f'<text x="{at[0] + 8:.1f}" y="{label:.1f}" fill="{colour}">{name}</text>'
            )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        'font-family="sans-serif" font-size="11" role="img" '
        'aria-label="Fidelity against cost">'
        f'<rect width="{width}" height="{height}" fill="white"/>'
        f'<text x="{left}" y="20" font-size="14">Median cosine to the exact hypergradient, by '
        "measured cost of a meta-iteration (plain training = 1): "
        '<tspan fill="#1a7f5a">mild</tspan>, <tspan fill="#b3402a">harsh</tspan></text>'
        + "".join(marks)
        + "</svg>\n"
    )


def report(results: Sequence[Mapping[str, Any]]) -> str:
    claims = "\n".join(
        f"| {text} | {'yes' if holds else 'no'} | {seen} |"
        for text, holds, seen in verdicts(results)
    )
    hours = sum(r["cpu_seconds"] for r in results) / 3600.0
    measured = {r["cell"] for r in results}
    missing = [cell.name for cell in all_cells() if cell.name not in measured]
    of_them = f"**Not measured, of the {len(all_cells())} cells:** {'; '.join(missing)}.\n\n"
    return f"""## Claims

| claim | holds | seen |
|---|---|---|
{claims}

{of_them if missing else ""}## Cells

{table(results)}

## Methods over all cells

{variants(results)}

{len(results)} cells, {hours:.2f} CPU hours without `auto`'s second runs; one thread, float32, torch
{torch.__version__}, {platform.machine()}.
"""


def main() -> None:
    # On a machine that others use too: seconds are those that this process had.
    clock = SimpleNamespace(perf_counter=time.process_time)
    with patch.object(backward_pass, "time", clock), patch.object(tuning, "time", clock):
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
    options = parser.parse_args()
    torch.set_num_threads(1)
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


if __name__ == "__main__":
    main()
