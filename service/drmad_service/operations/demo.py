"""`drmad demo`: finds the wrong labels of a real data set, on this machine."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from drmad_client.cli.output.live_view import follow
from drmad_client.errors import DrmadError
from drmad_client.http import local_key
from drmad_client.http.client import Client
from drmad_client.http.job_handle import Job
from drmad_client.records.meta_iteration import MetaIteration
from drmad_service.errors import ServiceStartError
from drmad_service.operations.options import DEFAULT_HOME, Home, Port
from drmad_service.operations.up_commands import sign_in_link

_START_S = 60.0

TRAIN, NOISE = 1000, 0.5
DATA = {"name": "digits", "train": TRAIN, "valid": 300, "test": 497, "label_noise": NOISE}
JOB: dict[str, Any] = {
    "name": "demo: clean digits",
    "problem": {"model": {"name": "mlp", "hidden": [50]}, "data": DATA},
    "hyperparameters": [{"kind": "sample_weight"}],
    "training": {
        "optimizer": "damped_sgd",
        "steps": 500,
        "batch_size": 50,
        "learning_rate": 1.0,
        "momentum": 0.9,
    },
    "hypergradient": {"method": "shortcut", "horizon": 50},
    "meta": {"optimizer": "adam", "learning_rate": 0.3, "iterations": 30},
    "tags": {"from": "demo"},
}
TRUTH: dict[str, Any] = JOB | {
    "name": "demo: correct labels only",
    "problem": JOB["problem"] | {"data": DATA | {"drop_noisy": True}},
    "meta": JOB["meta"] | {"iterations": 1},
}


def demo(
    home: Home = DEFAULT_HOME,
    port: Port = 8080,
    keep: Annotated[
        bool | None,
        typer.Option(
            help="Keep the service running afterwards, until Ctrl-C; by default in a terminal."
        ),
    ] = None,
) -> None:
    """Find wrong labels in a data set: about a minute on two cores, without a download.

    The demo replaces half of the labels of 1,000 real handwritten digits at random and tunes one
    weight per training example by gradient. The lowest weights identify the wrong labels.
    """
    console = Console()
    url = f"http://127.0.0.1:{port}"
    with _service(home, port, console) as process, Client(url, local_key.read(home)) as client:
        console.print(
            f"[bold]{TRAIN:,} handwritten digits, {NOISE:.0%} of their labels replaced at random; "
            f"tuning {TRAIN:,} sample weights"
        )
        tuned = client.jobs.create(JOB)
        truth = client.jobs.create(TRUTH)
        tuned = follow(client, tuned.id, console)
        truth = client.jobs.wait(truth.id, timeout_s=120)
        if tuned.best is None:
            raise DrmadError(f"the demo's job did not succeed; see: drmad show {tuned.id}")
        untuned = client.jobs.history(tuned.id)[0]
        console.print(_table(untuned, tuned, truth))
        stays = process is None or (_is_interactive() if keep is None else keep)
        for line in _next_steps(home.expanduser().resolve(), port, tuned.id, stays):
            console.print(line, soft_wrap=True, highlight=False)
        if process is not None and stays:
            console.print("The service keeps running; Ctrl-C stops it.")
            with contextlib.suppress(KeyboardInterrupt):
                process.wait()
        elif process is not None:
            console.print("The service stops now.")


def _next_steps(home: Path, port: int, job_id: str, stays: bool) -> Iterator[str]:
    """What to try next; without the service its start stands first."""
    if not stays:
        yield f"Start the service: {_up(home, port)}"
    link = sign_in_link(home, port, f"/jobs/{job_id}")
    yield f"See the job:       {link}"
    yield "                   (signs in once, within an hour)"
    yield f"Fetch its results: drmad fetch {job_id} --to demo"
    yield "Your own model:    drmad init mine && cd mine && drmad check job.yaml --code ."
    yield "                   drmad submit job.yaml --code . --watch  # my_problem.py is yours"


def _is_interactive() -> bool:
    return sys.stdin.isatty() and sys.stdout.isatty()


def _table(untuned: MetaIteration, tuned: Job, truth: Job) -> Table:
    assert tuned.best is not None
    assert truth.best is not None
    table = Table(show_header=True, header_style="bold")
    table.add_column("training set")
    table.add_column("test error", justify="right")
    rows = [
        ("all examples, each with the same weight (untuned)", untuned.metrics),
        ("all examples, tuned weights", tuned.best.metrics),
        ("the correctly labelled examples only (the truth)", truth.best.metrics),
    ]
    for name, metrics in rows:
        table.add_row(name, f"{metrics['test_error']:.1%}")
    precision = tuned.best.metrics["label_noise_precision"]
    table.add_section()
    table.add_row("wrong labels among the lowest weights", f"{precision:.0%}")
    return table


@contextlib.contextmanager
def _service(home: Path, port: int, console: Console) -> Iterator[subprocess.Popen[bytes] | None]:
    """The service at `port`: the one that runs there already, or one started for the demo."""
    if _is_ready(port):
        console.print(f"using the drmad service that runs on port {port}")
        yield None
        return
    console.print("starting Redis, Ray, the API and the scheduler on this machine ...")
    command = [sys.executable, "-m", "drmad_client", "up", "--home", str(home), "--port", str(port)]
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL, start_new_session=True
    )
    try:
        deadline = time.monotonic() + _START_S
        while not _is_ready(port):
            if process.poll() is not None or time.monotonic() > deadline:
                raise ServiceStartError(
                    f"the service did not start; see {home}/logs, or try another --port"
                )
            time.sleep(0.1)
        yield process
    finally:
        process.send_signal(signal.SIGINT)
        process.wait()


def _is_ready(port: int) -> bool:
    import httpx

    try:
        ready = httpx.get(f"http://127.0.0.1:{port}/readyz", timeout=2.0)
    except httpx.HTTPError:
        return False
    return ready.is_success and ready.json() == {"status": "ready"}


def _up(home: Path, port: int) -> str:
    options = "" if home == DEFAULT_HOME else f" --home {home}"
    return f"drmad up{options}" + ("" if port == 8080 else f" --port {port}")
