"""The section of docs/reference/benchmarks.md."""

from collections.abc import Mapping
from typing import Any

from hypergradient_costs.large_models import large_lines
from hypergradient_costs.mnist_mlp import ALPHA, GAMMA
from hypergradient_costs.timings import BY_HAND
from hypergradient_costs.traces import trace_lines
from hypergradient_costs.usual_models import usual_lines


def mb(count: float) -> str:
    return f"{count / 2**20:.0f} MB"


def report(found: Mapping[str, Any]) -> str:
    """The section, of the parts that were measured."""
    lines = [
        "## The engine",
        "",
        "MLP 784-50-50-50-10, minibatches of 50, one log penalty per input unit (934), MNIST's",
        f"files, α {ALPHA}, γ {GAMMA}, float32. {found['machine']}. {found['date']}.",
        "",
        f"    {found['command']}",
    ]
    if part := found.get("speed"):
        lines += [
            "",
            f"### Speed: T = {part['steps']}, times a loop over torch.optim.SGD "
            f"({part['plain_seconds']:.2f} CPU s)",
            "",
            "| | measured | times plain by hand | counted in matrix products |",
            "|---|---|---|---|",
        ]
        by_hand = part["ratios"][BY_HAND]
        for name, ratio in part["ratios"].items():
            counted = part["counted"][name]
            lines.append(f"| {name} | {ratio:.2f} | {ratio / by_hand:.2f} | {counted:.1f} |")
    if part := found.get("peers"):
        versions = ", ".join(f"{name} {version}" for name, version in part["versions"].items())
        lines += [
            "",
            f"### Beside other libraries ({versions})",
            "",
            "| T | method | CPU s | times plain | above plain training | cosine to exact |",
            "|---|---|---|---|---|---|",
        ]
        for row in part["rows"]:
            if "failed" in row:
                lines.append(f"| {row['steps']} | {row['name']} | {row['failed']} | | | |")
                continue
            alike = "" if row["cosine"] is None else f"{row['cosine']:.2f}"
            lines.append(
                f"| {row['steps']} | {row['name']} | {row['seconds']:.2f} | {row['ratio']:.1f} | "
                f"{mb(row['above_plain_bytes'])} | {alike} |"
            )
    if part := found.get("limit"):
        lines += [
            "",
            f"### T = {part['steps']} in {part['limit_bytes'] / 2**30:.0f} GB of address space",
            "",
            "| method | outcome |",
            "|---|---|",
        ]
        for row in part["rows"]:
            done = f"{row['seconds']:.0f} CPU s, peak {mb(row['peak'])}" if "peak" in row else ""
            lines.append(f"| {row['name']} | {done or row['failed']} |")
    if part := found.get("memory"):
        lines += [
            "",
            "### Memory above plain training: peak of a process of its own",
            "",
            "| T | method | measured | kept of the path, counted |",
            "|---|---|---|---|",
        ]
        for row in part["rows"]:
            lines.append(
                f"| {row['steps']} | {row['name']} | {mb(row['above_plain_bytes'])} | "
                f"{row['path_bytes'] / 2**20:.1f} MB |"
            )
    if part := found.get("replicas"):
        lines += [
            "",
            f"### Eight replicas in one batched computation, times one (T = {part['steps']})",
            "",
            "| method | times one |",
            "|---|---|",
        ]
        lines += [f"| {row['method']} | {row['ratio']:.1f} |" for row in part["rows"]]
    if part := found.get("resnet"):
        lines += [
            "",
            "### A ResNet-18-sized net",
            "",
            f"{part['weights']:,} weights, 32 x 32 images, {part['steps']} steps on {part['rows']} "
            f"of them: training by drmad, held-out figures included, takes {part['ratio']:.2f} "
            f"times a plain loop ({part['plain_seconds']:.1f} s).",
        ]
    if part := found.get("traces"):
        lines += trace_lines(part)
    if part := found.get("usual"):
        lines += usual_lines(part)
    if part := found.get("large"):
        lines += large_lines(part)
    if part := found.get("graph"):
        lines += ["", "### A step recorded as a CUDA graph", ""]
        if "needs" in part:
            lines.append(f"Not run: needs {part['needs']}.")
        else:
            times = part["recorded"] / part["eager"]
            lines.append(
                f"{part['recorded']:.0f} steps per second, {times:.1f} times those of the eager "
                f"loop ({part['eager']:.0f})."
            )
    return "\n".join(lines) + "\n"
