"""The claims and the tables of the results page."""

import platform
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

import torch

from fidelity_study.cells import all_cells
from fidelity_study.measurement import THRESHOLD


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
