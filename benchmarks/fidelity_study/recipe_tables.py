"""The claims and the table of the cells that train what people train."""

import platform
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from fidelity_study.measurement import THRESHOLD
from fidelity_study.recipe_cells import recipe_cells

SHOWN = ("stored", "replay", "shortcut")

Result = Mapping[str, Any]


def number(value: float | None) -> str:
    return "diverged" if value is None else f"{value:.3f}"


def recipe_table(results: Sequence[Result]) -> str:
    """Cosine and cost of the methods by cell."""
    head = [
        "cell",
        "growth",
        *SHOWN,
        "products/T",
        "auto chose (draws): in the next run",
        "half",
    ]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for result in results:
        if "failed" in result:
            lines.append(f"| {result['cell']} | {result['failed']} |" + " |" * (len(head) - 2))
            continue
        methods = result["methods"]
        shown = [f"{number(methods[n]['cosine'])} at {methods[n]['measured']:.1f}×" for n in SHOWN]
        products = methods["shortcut"]["products"]
        share = "–" if products is None else f"{products / result['steps']:.2f}"
        auto, choice = result.get("auto"), "–"  # lines of an earlier rule of auto have no figure
        if auto is not None:
            choice = f"{auto['choice']} ({len(auto['probes'])}): {auto['cosine_next']:.2f}"
        half = "chooses" if result["chooses"] else "judges"
        row = [result["cell"], f"{result['growth']:.2g}", *shown, share]
        lines.append("| " + " | ".join([*row, choice, half]) + " |")
    return "\n".join(lines)


def claims(results: Sequence[Result]) -> list[tuple[str, bool, str]]:
    """What must hold, whether it does, and where it does not."""

    def claim(text: str, of: Sequence[Result], bad: Sequence[str]) -> tuple[str, bool, str]:
        seen = f"{len(of) - len(bad)} of {len(of)}" + (": not " + "; ".join(bad) if bad else "")
        return text, bool(of) and not bad, seen

    def dear(name: str, most: float, of: Sequence[Result]) -> list[str]:
        costs = [(r["cell"], r["methods"][name]["measured"]) for r in of]
        return [f"{cell} ({cost:.1f}×)" for cell, cost in costs if cost > most]

    def far(name: str, least: float, of: Sequence[Result]) -> list[str]:
        found = [(r["cell"], r["methods"][name]["cosine"]) for r in of]
        return [f"{cell} ({number(cosine)})" for cell, cosine in found if (cosine or 0.0) < least]

    there = [result for result in results if "failed" not in result]
    mild = [result for result in there if not result["harsh"]]
    judging = [result for result in there if not result["chooses"] and "auto" in result]
    wrong = [
        f"{r['cell']} ({r['auto']['choice']}: {r['auto']['cosine_next']:.2f})"
        for r in judging
        if r["auto"]["cosine_next"] < THRESHOLD
    ]
    right = len(judging) - len(wrong)
    share = right / len(judging) if judging else 0.0
    found = [
        claim("replay agrees with stored to .9995 in every cell", there,
              far("replay", 0.9995, there)),
        claim("stored at most 4.0 times plain training", there, dear("stored", 4.0, there)),
        claim("replay at most 4.0 times plain training", there, dear("replay", 4.0, there)),
        claim("shortcut's default ≥ .95 in every mild cell", mild, far("shortcut", 0.95, mild)),
        claim("shortcut's default at most 2.5 times plain training in every mild cell", mild,
              dear("shortcut", 2.5, mild)),
    ]  # fmt: skip
    seen = f"{right} of {len(judging)}" + (": not " + "; ".join(wrong) if wrong else "")
    text = "auto's choice ≥ .80 on the next run in 95 % of the judging half of the cells"
    return [*found, (text, share >= 0.95, seen)]


def recipe_report(results: Sequence[Result]) -> str:
    rows = "\n".join(
        f"| {text} | {'yes' if holds else 'no'} | {seen} |" for text, holds, seen in claims(results)
    )
    measured = {result["cell"] for result in results}
    missing = [cell.name for cell in recipe_cells() if cell.name not in measured]
    of_all = f"**Not measured, of {len(recipe_cells())} cells:** {'; '.join(missing)}.\n\n"
    hours = sum(result["cpu_seconds"] for result in results) / 3600.0
    return f"""## Claims

| claim | holds | seen |
|---|---|---|
{rows}

{of_all if missing else ""}## Cells

Cosine to `stored`, and CPU seconds of both passes in units of a loop over torch's own optimizer,
scheduler and clipping. `growth` is that of the adjoint norm.

{recipe_table(results)}

{len(results)} cells, {hours:.2f} CPU hours; one thread, float32, torch
{torch.__version__}, {platform.machine()}.
"""
