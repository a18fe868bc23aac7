"""Every block of code in the documentation is run by a test, or is listed here with the reason."""

from __future__ import annotations

import re
import shlex
import typing
from pathlib import Path

import pytest
import typer.main

from drmad_client import JobSpec
from drmad_client.cli.main import app
from drmad_client.spec.text import job_file
from tests.docs.pages import ROOT, Block, blocks, pages

ALL = [block for page in pages() for block in blocks(page)]
RUN_WITH_A_SERVICE = (  # by tests/end_to_end/test_docs.py
    "README.md",
    "docs/getting-started/quickstart.md",
    "docs/getting-started/tutorial.md",
)
# Their commands are run by tests/end_to_end/test_docs.py.
STORIES = ("hugging-face", "lora", "vision", "tabular")
RUN_HERE = (  # their Python blocks, one after the other
    "docs/concepts/hypergradients.md",
    "docs/how-to/fine-tuning.md",
    "docs/how-to/own-optimizer.md",
    "docs/how-to/problem.md",
    "docs/how-to/recipe.md",
    "docs/how-to/restart-or-online.md",
    "docs/how-to/resume-and-fork.md",
    "docs/how-to/schedules.md",
    "docs/how-to/several-workers.md",
    "docs/how-to/tables.md",
    "docs/how-to/wrong-labels.md",
)
NOT_RUN = {
    ("CONTRIBUTING.md", "sh"): "they install, and run this suite",
    ("SECURITY.md", "python"): "the signature is tested by tests/service/scheduling",
    ("deploy/kubernetes/README.md", "sh"): "they need a Kubernetes cluster",
    ("docs/concepts/fidelity.md", "python"): "a fragment; tests/workers/preflight runs the call",
    ("docs/concepts/validation.md", "sh"): "tests/workers/validation runs the command",
    ("docs/how-to/attribution.md", "sh"): "tests/workers/attribution runs the commands",
    (
        "docs/how-to/attribution.md",
        "python",
    ): "tests/workers/attribution runs the calls",
    ("docs/how-to/retrain.md", "sh"): "tests/end_to_end/test_retrainings.py runs the command",
    ("docs/how-to/retrain.md", "python"): "tests/end_to_end and tests/client/export run the calls",
    ("docs/getting-started/templates.md", "sh"): "tests/workers/test_templates.py runs them",
    ("docs/how-to/deploy.md", "sh"): "they need Docker, a collector or jobs to back up",
    ("docs/how-to/fine-tuning.md", "sh"): "the weights are the reader's",
    (
        "docs/how-to/hugging-face.md",
        "python",
    ): "tests/workers/integrations runs them, beside its own models",
    ("docs/how-to/notebook.md", "python"): "cells of a notebook that tests/end_to_end runs",
    ("docs/how-to/own-model.md", "sh"): "their job is the reader's",
    ("docs/how-to/own-model.md", "python"): "their arrays are the reader's",
    ("docs/how-to/tables.md", "sh"): "their file is the reader's",
} | {
    (f"docs/stories/{name}.md", language): "parts of a template, and commands that end_to_end runs"
    for name in STORIES
    for language in ("python", "sh")
}
COMMAND = re.compile(r"\$\(|-- | api | scheduler ")  # what may stand before one
JOB = {
    "problem": {"model": {"name": "mlp"}, "data": {"name": "digits"}},
    "hyperparameters": [{"kind": "sample_weight"}],
}


@pytest.mark.parametrize("language", ["sh", "python"])
def test_every_block_is_run_or_listed(language: str) -> None:
    unknown = {
        block.page
        for block in ALL
        if block.language == language
        and not block.file
        and block.page not in RUN_WITH_A_SERVICE
        and (block.page, language) not in NOT_RUN
        and (language != "python" or block.page not in RUN_HERE)
    }
    assert not unknown


def test_the_list_names_blocks_that_are_there() -> None:
    there = {(block.page, block.language) for block in ALL}
    assert set(NOT_RUN) <= there
    assert {(page, "python") for page in RUN_HERE} <= there


@pytest.mark.parametrize("page", RUN_HERE)
def test_the_python_of_a_page_runs(page: str) -> None:
    found = blocks(ROOT / page)
    program = "\n".join(block.text for block in found if block.language == "python")
    exec(compile(program, page, "exec"), {"__name__": "page"})


def test_the_readme_states_eight_lines_that_find_wrong_labels(
    capsys: pytest.CaptureFixture[str],
) -> None:
    block = next(block for block in blocks(ROOT / "README.md") if block.language == "python")
    lines = [line for line in block.text.splitlines() if line and "import" not in line]
    assert len(lines) == 8
    exec(compile(block.text, "README.md", "exec"), {"__name__": "page"})
    found = re.match(r"(\d+) of the 200 lowest", capsys.readouterr().out)
    assert found is not None
    assert int(found[1]) > 140


def commands() -> list[tuple[Block, list[str]]]:
    """Every `drmad ...` in a block of a shell, as its words."""
    found = []
    for block in ALL:
        if block.language == "sh":
            for line in block.text.splitlines():
                for part in COMMAND.split(line.partition(" #")[0]):
                    if part.strip().startswith("drmad "):
                        found.append((block, shlex.split(part.partition(")")[0].rstrip("\\ "))))
    return found


def test_every_command_and_option_exists() -> None:
    wrong = []
    root: typing.Any = typer.main.get_command(app)
    for block, words in commands():
        command, context = root, root.make_context("drmad", [], resilient_parsing=True)
        rest = words[1:]
        while rest and hasattr(command, "list_commands"):
            command.list_commands(context)
            _, command, rest = command.resolve_command(context, rest)
            if command is None:
                break
        known = {flag for option in getattr(command, "params", ()) for flag in option.opts}
        known |= {"--help", "-h"}
        given = [word.partition("=")[0] for word in rest if word.startswith("-") and word != "-"]
        if command is None or not set(given) <= known:
            wrong.append(f"{block.page}: {shlex.join(words)}")
    assert len(commands()) > 20
    assert not wrong


def test_every_part_of_a_job_is_valid(tmp_path: Path) -> None:
    checked = 0
    for block in ALL:
        if block.language != "yaml" or "..." in block.text:
            continue
        (tmp_path / "job.yaml").write_text(block.text)
        fields = job_file.read(tmp_path / "job.yaml")
        assert set(fields) <= set(JobSpec.model_fields), f"{block.page}: {block.first_line}"
        if "entrypoint" in (problem := fields.get("problem", {})):
            problem["code"] = "sha256:" + 64 * "0"  # --code fills it in
        rest = dict(JOB)
        if fields.get("kind") == "attribution":
            del rest["hyperparameters"]
        JobSpec.model_validate(rest | fields)
        checked += 1
    assert checked >= 4
