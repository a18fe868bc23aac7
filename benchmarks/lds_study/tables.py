"""The results as the tables of the documentation."""

from collections.abc import Mapping, Sequence
from statistics import fmean, stdev
from typing import Any

from lds_study.cells import CELLS

Result = Mapping[str, Any]

INFLUENCE = "influence functions"


def report(results: Sequence[Result]) -> str:
    """LDS and cost of every method by cell, means over the seeds."""
    shown = [cell for cell in CELLS if any(r["cell"] == cell.name for r in results)]
    names: list[str] = []
    for result in results:
        for name in result["methods"]:
            name = INFLUENCE if name.startswith(INFLUENCE) else name
            if name not in names:
                names.append(name)
    lines = ["| LDS at plain runs | " + " | ".join(cell.name for cell in shown) + " |"]
    lines.append("|" + "---|" * (1 + len(shown)))
    for name in names:
        row = [_cell([r for r in results if r["cell"] == cell.name], name) for cell in shown]
        lines.append(f"| {name} | " + " | ".join(row) + " |")
    agreements = [
        _spread([r["agreement"] for r in results if r["cell"] == cell.name]) for cell in shown
    ]
    lines.append("| agreement between draws | " + " | ".join(agreements) + " |")
    seeds = sorted({(r["cell"], r["seed"]) for r in results})
    changes = sorted({r["changes"] for r in results})
    lines += ["", f"{len(seeds)} runs of a cell and a seed, {changes} retrainings for each size."]
    return "\n".join(lines)


def _cell(results: Sequence[Result], name: str) -> str:
    """The mean LDS with its spread over the seeds, and the mean cost."""
    label = ""
    if name == INFLUENCE:
        dampings = {n for r in results for n in r["methods"] if n.startswith(INFLUENCE)}

        def mean(damping: str) -> float:
            return fmean(r["methods"][damping]["lds"] or 0.0 for r in results)

        name = max(dampings, key=mean)  # the best damping, which a user would not know
        label = f" ({name.rpartition(', ')[2]})"
    rows = [r["methods"][name] for r in results if name in r["methods"]]
    if not rows:
        return "–"
    cost = fmean(row["times_plain"] for row in rows)
    return f"{_spread([row['lds'] or 0.0 for row in rows])} at {cost:.1f}{label}"


def _spread(figures: Sequence[float]) -> str:
    if len(figures) < 2:
        return f"{figures[0]:.2f}"
    return f"{fmean(figures):.2f} ± {stdev(figures):.2f}"
