"""Means with confidence intervals, tables in Markdown, and figures that can be drawn again."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

COLOURS = (
    "#3056d3",
    "#d9480f",
    "#2b8a3e",
    "#862e9c",
    "#868e96",
    "#c2255c",
    "#0b7285",
    "#e67700",
    "#212529",
)


def mean_and_interval(values: Sequence[float]) -> tuple[float, float]:
    """The mean, and half the width of its 95 % confidence interval by Student's t (nan for one)."""
    mean = float(np.mean(values))
    if len(values) < 2:
        return mean, float("nan")
    error = float(np.std(values, ddof=1)) / len(values) ** 0.5
    return mean, float(stats.t.ppf(0.975, len(values) - 1)) * error


def percent(values: Sequence[float], seeds: bool = False) -> str:
    """As in 6.2 ± 0.4 % (of one run 6.2 %); a dash without any. With `seeds`, of how many."""
    if not values:
        return "–"
    mean, half = mean_and_interval(values)
    count = f" ({len(values)})" if seeds else ""
    return f"{100 * mean:.1f}{'' if np.isnan(half) else f' ± {100 * half:.1f}'} %{count}"


def number(values: Sequence[float], digits: int = 3) -> str:
    if not values:
        return "–"
    mean, half = mean_and_interval(values)
    return f"{mean:.{digits}g}" if np.isnan(half) else f"{mean:.{digits}g} ± {half:.2g}"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Markdown, the first column to the left and the others to the right."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def with_block(text: str, block: str, name: str = "results") -> str:
    """The text with what stands between `<!-- name -->` and `<!-- /name -->` replaced."""
    pattern = rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)"
    found, count = re.subn(
        pattern, lambda m: m.group(1) + block + m.group(2), text, flags=re.DOTALL
    )
    if count != 1:
        raise ValueError(f"the text must hold <!-- {name} --> and <!-- /{name} --> once")
    return found


def axes(columns: int = 1, rows: int = 1, size: tuple[float, float] = (4.2, 3.0)) -> Any:
    """A matplotlib figure and its axes (an array of rows × columns), without a display."""
    import matplotlib
    from cycler import cycler

    matplotlib.use("svg")
    matplotlib.rcParams |= {
        "svg.hashsalt": "drmad",  # the same data give the same file
        "axes.prop_cycle": cycler(color=COLOURS),
        "axes.spines.top": False,
        "axes.spines.right": False,
        "font.size": 9,
        "legend.frameon": False,
        "legend.fontsize": 8,
    }
    from matplotlib import pyplot

    return pyplot.subplots(
        rows, columns, figsize=(size[0] * columns, size[1] * rows), squeeze=False, layout="tight"
    )


def legend(axis: Any, **style: Any) -> None:
    """Where something has a label."""
    if axis.get_legend_handles_labels()[0]:
        axis.legend(**style)


def save(figure: Any, path: Path) -> None:
    from matplotlib import pyplot

    path.parent.mkdir(parents=True, exist_ok=True)
    options = {"dpi": 110} if path.suffix == ".png" else {"metadata": {"Date": None}}
    figure.savefig(path, **options)
    pyplot.close(figure)


def curve(axis: Any, curves: Sequence[Sequence[float]], label: str, **style: Any) -> None:
    """The mean over seeds, and its confidence interval as a band."""
    if not curves:
        return
    length = min(len(c) for c in curves)
    points = np.array([[np.nan if v is None else v for v in c[:length]] for c in curves], float)
    mean = points.mean(axis=0)
    (line,) = axis.plot(range(length), mean, label=label, **style)
    if len(curves) > 1:
        factor = stats.t.ppf(0.975, len(curves) - 1) / len(curves) ** 0.5
        half = factor * points.std(axis=0, ddof=1)
        axis.fill_between(
            range(length), mean - half, mean + half, alpha=0.15, color=line.get_color(), lw=0
        )
