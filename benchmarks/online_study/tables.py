"""The tables of the measurements."""

import statistics
from collections.abc import Iterable, Sequence
from typing import Any

MOST_RUNS = 6.0
"""The work that a setting may take to be chosen, in training runs."""
SETTING = ("steps", "window", "rate")

Line = dict[str, Any]


def best_of(
    lines: Iterable[Line],
    part: str = "choose",
    most_runs: float = MOST_RUNS,
    names: Sequence[str] = SETTING,
) -> Line | None:
    """The setting of the lowest mean validation loss after retraining, of those that may be."""
    groups: dict[tuple[Any, ...], list[Line]] = {}
    for line in lines:
        if line["part"] == part and line["runs"] <= most_runs:
            key = tuple(line[name] for name in names)
            groups.setdefault(key, []).append(line)
    if not groups:
        return None
    most = max(map(len, groups.values()))
    whole = {key: found for key, found in groups.items() if len(found) == most}
    chosen = min(whole, key=lambda key: mean(whole[key], "validation_loss"))
    return dict(zip(names, chosen, strict=True))


def mean(lines: Sequence[Line], name: str) -> float:
    return statistics.fmean(line[name] for line in lines)


def spread(lines: Sequence[Line], name: str, scale: float = 100.0) -> str:
    """The mean over the seeds with the standard deviation between them."""
    numbers = [scale * line[name] for line in lines]
    deviation = statistics.stdev(numbers) if len(numbers) > 1 else 0.0
    return f"{statistics.fmean(numbers):.1f} ± {deviation:.1f}"


def report(lines: Sequence[Line]) -> str:
    out: list[str] = []
    names = ("found", "test_error", "thresholded_test_error")
    groups: dict[str, list[Line]] = {}
    for line in lines:
        part, _, data = line["part"].partition(" ")
        if part == "choose":
            key = "steps {steps}, window {window}, rate {rate}".format(**line)
            groups.setdefault(f"{data} seeds from 100: {key}", []).append(line)
        elif part == "report":
            setting = ", ".join(f"{name} {line[name]}" for name in SETTING if name in line)
            groups.setdefault(f"{data} seeds 0-4: {line['arm']} {setting}", []).append(line)
    if groups:
        out += ["| arm | runs | found % | test error % | thresholded % | validation loss |"]
        out += ["|---|---|---|---|---|---|"]
    for name, found in groups.items():
        figures = [spread(found, each) for each in names]
        loss = f"{mean(found, 'validation_loss'):.4f}"
        out.append(f"| {name} | {mean(found, 'runs'):.2f} | {' | '.join(figures)} | {loss} |")
    for window in sorted({line["window"] for line in lines if line["part"] == "overhead"}):
        times = [each for each in lines if each["part"] == "overhead" and each["window"] == window]
        out.append(
            f"window {window}: {mean(times, 'window_ms'):.2f} ms of CPU; gradients and products "
            f"{mean(times, 'alone_ms'):.2f} ms, overhead {spread(times, 'overhead')} %; with the "
            f"steps {mean(times, 'steps_ms'):.2f} ms, {spread(times, 'overhead_on_steps')} %"
            + (
                f"; by autograd alone {mean(times, 'eager_ms'):.2f} ms, "
                f"{spread(times, 'overhead_on_eager')} %"
                if all("eager_ms" in each for each in times)
                else ""
            )
        )
    out += [
        f"window {line['window']} of a job: {line['apart_ms']:.1f} ms between two commits, "
        f"{line['replica_ms']:.1f} ms of them in the replica; CPU of all processes "
        f"{line['cpu_ms']:.1f} ms, gradients and products alone {line['alone_ms']:.1f} ms"
        for line in lines
        if line["part"] == "job"
    ]
    return "\n".join(out)


def comparison(lines: Sequence[Line], parts: Iterable[str]) -> str:
    """A table for each part: test errors after retraining, and the difference to the online run."""
    return "\n\n".join(_compared(part, lines) for part in parts)


def _compared(part: str, lines: Sequence[Line]) -> str:
    groups: dict[str, list[Line]] = {}
    for line in lines:
        if line["part"] == f"report {part}":
            names = (*SETTING, "iterations", "trials", "factor")
            setting = [f"{name} {line[name]}" for name in names if name in line]
            groups.setdefault(", ".join([line["arm"], *setting]), []).append(line)
    online = next((found for name, found in groups.items() if name.startswith("online")), [])
    heads = [part, "seeds", "training runs", "test error %", "points to online", "validation loss"]
    out = ["| " + " | ".join(heads) + " |", "|---|---|---|---|---|---|"]
    for name, found in groups.items():
        paired = [
            {"difference": one["test_error"] - other["test_error"]}
            for one in found
            for other in online
            if one["seed"] == other["seed"]
        ]
        cells = [
            name,
            str(len(found)),
            f"{mean(found, 'runs'):.1f}",
            spread(found, "test_error"),
            spread(paired, "difference") if paired else "",
            f"{mean(found, 'validation_loss'):.4f}",
        ]
        out.append("| " + " | ".join(cells) + " |")
    return "\n".join(out)
