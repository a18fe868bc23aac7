"""python -m experiments [NAME ...] [--quick] [--draw]: runs experiments and draws their results."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import logging
import os
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol, cast

from drmad_client.http.client import Client
from experiments import summary
from experiments.cleaning import Cleaned
from experiments.gather import gather, service
from experiments.plain import Plain
from experiments.reporting import with_block
from experiments.results import Results
from experiments.tasks import Measured, Search, Task, Tuned, on

ROOT = Path(__file__).parent
NAMES = (
    "mnist_l2",
    "headline",
    "schedules",
    "initial_scales",
    "distillation",
    "weight_sharing",
    "wrong_labels",
    "attribution",
    "hyperparameter_server",
    "conv_net",
    "stories",
)


KINDS: dict[str, type[Task]] = {
    "jobs": Tuned,
    "searches": Search,
    "timings": Measured,
    "plain": Plain,
    "cleaning": Cleaned,
}


class Experiment(Protocol):
    """A module experiments/<name>/experiment.py.

    `stages(quick, seeds)`: functions from the results so far to the next tasks, each called after
    the tasks before it. `report(results)`: the table. `draw(results, folder)`: the figures.
    """

    stages: Callable[[bool, int], Sequence[Callable[[Results], Sequence[Task]]]]
    report: Callable[[Results], str]
    draw: Callable[[Results, Path], None]


def load(name: str) -> Experiment:
    return cast("Experiment", importlib.import_module(f"experiments.{name}.experiment"))


def run(
    client: Client | None,
    name: str,
    quick: bool,
    seeds: int,
    folder: Path,
    wanted: Callable[[Task], bool] = lambda _: True,
    data: str | None = None,
) -> None:
    """Run the tasks of an experiment without a result in `folder`; `data` takes MNIST's place."""
    results = Results(folder)
    for stage in load(name).stages(quick, seeds):
        tasks = [task for task in stage(results) if wanted(task)]
        gather(client, [task if data is None else on(task, data) for task in tasks], results)


def draw(name: str, folder: Path) -> None:
    """Write the figures and the README's table from the results in `folder`."""
    results = Results(folder)
    if not results.is_empty:
        load(name).draw(results, folder)
    readme = folder / "README.md"
    readme.write_text(with_block(readme.read_text(), block(name, folder)))


def block(name: str, folder: Path) -> str:
    """The generated part of a README: the table and the figures."""
    results = Results(folder)
    if results.is_empty:
        return "Not run yet.\n"
    figures = sorted([*folder.glob("*.svg"), *folder.glob("*.png")])
    links = [f"![{figure.stem}]({figure.name})\n" for figure in figures]
    return "\n".join([load(name).report(results), *links])


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m experiments", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)}")
    parser.add_argument("--quick", action="store_true", help="a reduced set, in build/experiments")
    parser.add_argument("--seeds", type=int, help="default: 5, of the reduced set 1")
    parser.add_argument("--case", help="only this case, such as '40 %%' or 'T = 100'")
    parser.add_argument("--arm", action="append", help="only this arm; may be given again")
    parser.add_argument(
        "--only", choices=KINDS, action="append", help="such tasks alone; may be given again"
    )
    parser.add_argument(
        "--data", help="a catalogued data set in the place of MNIST, in build/experiments/DATA"
    )
    parser.add_argument("--draw", action="store_true", help="only tables and figures, run nothing")
    given = parser.parse_args()
    unknown = set(given.names) - set(NAMES)
    if unknown:
        parser.error(f"NAME must be one of {', '.join(NAMES)}, got {', '.join(sorted(unknown))}")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    names = given.names or NAMES
    seeds = given.seeds or (1 if given.quick else 5)
    build = Path("build/experiments")
    aside = given.quick or given.data is not None
    root = build / (given.data or "") if aside else ROOT
    folders = {name: root / name for name in names}
    kinds = tuple(KINDS[kind] for kind in given.only or KINDS)

    def wanted(task: Task) -> bool:
        return (
            isinstance(task, kinds)
            and given.case in (None, task.case)
            and (given.arm is None or task.arm in given.arm)
        )

    if not given.draw:
        serving = (
            service(os.environ.get("DRMAD_URL"), build / "home")
            if Tuned in kinds
            else contextlib.nullcontext()
        )
        with serving as client:
            for name in names:
                began = time.perf_counter()
                run(client, name, given.quick, seeds, folders[name], wanted, given.data)
                logging.info("%s took %.0f s", name, time.perf_counter() - began)
    for name, folder in folders.items():
        if aside:
            shutil.copy(ROOT / name / "README.md", folder / "README.md")
        draw(name, folder)
    if not aside:
        readme = ROOT.parent / "README.md"
        readme.write_text(with_block(readme.read_text(), summary.block(ROOT), "experiments"))


if __name__ == "__main__":
    main()
