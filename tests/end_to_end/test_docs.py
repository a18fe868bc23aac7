"""The documents do what they say: their commands and programs are run as they are printed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import nbclient
import nbformat
import pytest
import yaml

from tests.end_to_end.running import Service

ROOT = Path(__file__).parents[2]
FENCE = re.compile(r"^```(\w+)(?: file=(\S+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
STORIES = ("hugging-face", "lora", "vision", "tabular")
"""Pages of docs/stories, each about the template of its name."""
SHORT_STORY = ("training.steps=8", "hypergradient.horizon=4", "meta.iterations=2")
KEEP_FOLDER = 'pwd > "$START/.cwd"'  # the next block begins where this one ended
# What the test has done already: the package is installed, and a service runs. The commands that
# install are run by tests/docs/test_installation.py.
DONE = re.compile(r"pip install .*|make (install|dist)\b.*|\.venv/bin/drmad --help|drmad up")


@pytest.fixture
def environment(service: Service) -> dict[str, str]:
    binaries = str(Path(sys.executable).parent)
    return service.environment | {
        "PATH": f"{binaries}{os.pathsep}{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",
    }


def run(
    page: Path,
    folder: Path,
    environment: dict[str, str],
    changes: Mapping[str, str] = MappingProxyType({}),
) -> Iterator[tuple[str, str]]:
    """Does what a reader of the page does; each block with what it printed.

    `changes` are made in the page first, such as options that shorten its commands.
    """
    printed = page.read_text(encoding="utf-8")
    for old, new in changes.items():
        assert old in printed, f"{page.name} has no {old}"
        printed = printed.replace(old, new)
    for language, file, text in FENCE.findall(printed):
        if "from drmad_workers import" in text and "drmad_client" not in text and not file:
            continue  # it needs no service, and tests/docs/test_blocks.py runs it
        if file:
            (folder / file).write_text(text)
            continue
        if language == "sh":
            lines = [line for line in text.splitlines() if not DONE.fullmatch(line)]
            script = "\n".join(["set -eu", *lines, KEEP_FOLDER])
        else:
            assert language == "python", f"{page.name} has a block of {language} without a file"
            (folder / "block.py").write_text(text)
            script = f"set -eu\npython block.py\n{KEEP_FOLDER}"
        begun = {"START": str(folder)}
        done = subprocess.run(
            ["bash", "-c", script],
            cwd=folder,
            env=environment | begun,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr
        yield text, done.stdout
        folder = Path((folder / ".cwd").read_text().strip())


@pytest.mark.full
def test_the_quickstart_runs_as_it_is_printed(environment: dict[str, str], tmp_path: Path) -> None:
    page = ROOT / "docs" / "getting-started" / "quickstart.md"
    assert len(page.read_text().splitlines()) <= 50  # fits a screen
    (_, _), (_, shell), (_, program) = run(page, tmp_path, environment)
    assert "succeeded" in shell
    assert "model.safetensors" in shell
    assert "validation_loss=" in program
    assert (tmp_path / "demo" / "losses.html").stat().st_size > 10_000


def test_the_readme_runs_as_it_is_printed(environment: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    printed = {
        text.splitlines()[0]: shown
        for text, shown in run(ROOT / "README.md", tmp_path, environment)
    }
    assert "succeeded" in printed["drmad submit examples/clean-digits.yaml --watch"]
    assert "of the examples lost weight" in printed["import yaml"]
    assert "block:build from" in printed["# own_model.py"]
    assert "validation_loss=" in printed["# own_model.py"]
    own = printed["drmad check examples/own-model/job.yaml --code examples/own-model"]
    assert "no problems found" in own
    assert "mixing: 10 × 10" in own
    assert "succeeded" in own


@pytest.mark.full
@pytest.mark.parametrize("story", STORIES)
def test_a_story_runs_as_it_is_printed(
    environment: dict[str, str], tmp_path: Path, story: str
) -> None:
    """From an empty folder, with short trainings; the experiment `stories` has the long ones."""
    short = " ".join(f"--set {change}" for change in SHORT_STORY)
    changes = {
        "--code . --set seed": f"--code . {short} --set seed",
        "job.yaml --code .)": f"job.yaml --code . {short})",
        "python my_training.py": "python my_training.py --runs 1",
        "for SEED in 0 1 2": "for SEED in 1",
    }
    page = ROOT / "docs" / "stories" / f"{story}.md"
    shell = without_excerpts(page, tmp_path)
    (first, once), (_, repeated) = run(shell, tmp_path, environment, changes)
    assert first.startswith(f"drmad init --template {story}")
    assert "no problems found" in once
    for printed in (once, repeated):
        assert "succeeded" in printed
        untuned, tuned = map(float, re.findall(r"test error (\d+\.\d)%", printed))
        assert 0.0 < untuned < 100.0
        assert 0.0 < tuned < 100.0


def without_excerpts(page: Path, folder: Path) -> Path:
    """The page without its blocks of Python and YAML, which show parts of the template's files."""
    copy = folder / page.name
    parts = [f"```{text}" for text in page.read_text(encoding="utf-8").split("```")]
    shells = [f"{text}```\n" for text in parts if text.startswith("```sh\n")]
    copy.write_text("".join(shell for shell in shells if "pip install" not in shell))
    return copy


@pytest.mark.parametrize("story", STORIES)
def test_a_story_shows_parts_of_the_files_that_init_writes(story: str) -> None:
    folder = ROOT / "client" / "drmad_client" / "spec" / "templates" / story
    written = "\n".join(file.read_text(encoding="utf-8") for file in sorted(folder.iterdir()))
    page = (ROOT / "docs" / "stories" / f"{story}.md").read_text(encoding="utf-8")
    shown = [text for language, _, text in FENCE.findall(page) if language == "python"]
    assert shown
    assert all(text in written for text in shown)
    job = yaml.safe_load((folder / "job.yaml").read_text(encoding="utf-8"))
    stated = [text for language, _, text in FENCE.findall(page) if language == "yaml"]
    for name, value in yaml.safe_load("\n".join(stated)).items():
        assert job[name] == value


@pytest.mark.full
def test_the_tutorial_runs_as_it_is_printed(environment: dict[str, str], tmp_path: Path) -> None:
    page = ROOT / "docs" / "getting-started" / "tutorial.md"
    blocks = run(page, tmp_path, environment)
    printed = {text.splitlines()[0]: shown for text, shown in blocks}
    losses = re.findall(r"validation loss (\S+)", printed["python tune_here.py"])
    assert len(losses) == 5
    assert "small net" in printed["python inspect_result.py"]
    assert "extended to 15 meta-iterations" in printed["python go_on.py"]
    untuned, tuned, service = map(float, re.findall(r"(\d+\.\d)%", printed["python retrain.py"]))
    assert tuned == pytest.approx(service, abs=5.0)  # 200 examples: one run is not like another
    assert untuned - tuned > 3.0
    assert "problem.data.name: must be one of" in printed["python wrong.py"]


@pytest.mark.full
def test_retraining_with_plain_torch_reaches_the_services_figures(
    environment: dict[str, str],
) -> None:
    def drmad(*arguments: str) -> str:
        done = subprocess.run(
            [*arguments], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    job_id = drmad("drmad", "submit", "examples/clean-digits.yaml").strip()
    untuned, tuned, service = map(
        float, re.findall(r"(\d+\.\d)%", drmad("python", "examples/retrain.py", job_id))
    )
    assert tuned == pytest.approx(service, abs=2.0)
    assert untuned > 1.5 * tuned


@pytest.mark.full
def test_templates_run_as_they_are(environment: dict[str, str], tmp_path: Path) -> None:
    done = subprocess.run(
        ["bash", "-c", "drmad init . > /dev/null && python my_problem.py"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    losses = [float(loss) for loss in re.findall(r"loss (\S+)", done.stdout)]
    assert len(losses) == 15
    assert min(losses) < 0.8 * losses[0]


@pytest.mark.full
def test_the_notebook_runs(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    shown = executed("clean_digits.ipynb", environment, monkeypatch)
    assert any("text/html" in data for data in shown)
    assert any("application/vnd.plotly.v1+json" in data for data in shown)


@pytest.mark.full
def test_the_notebook_with_a_model_of_its_own_runs(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = executed("own_model.ipynb", environment, monkeypatch)
    text = "\n".join(data.get("text/plain", "") for data in shown)
    assert "Net, In [2]" in text
    assert "TRAIN = 500, by value" in text
    assert "'hypergradient': 'passed'" in text
    assert any("<progress" in data.get("text/html", "") for data in shown)
    assert any("packed</th>" in data.get("text/html", "") for data in shown)
    assert any("application/vnd.plotly.v1+json" in data for data in shown)
    found = re.search(r"(\d+)% of the 100 lowest weights belong to wrong labels", text)
    assert found is not None
    assert int(found[1]) > 60


def test_the_page_about_notebooks_has_the_cells_of_the_example() -> None:
    cells = {cell.source for cell in notebook("own_model.ipynb").cells}
    page = (ROOT / "docs" / "how-to" / "notebook.md").read_text(encoding="utf-8")
    shown = [text.strip() for language, _, text in FENCE.findall(page) if language == "python"]
    assert len(shown) >= 4
    assert set(shown) <= cells


def notebook(name: str) -> nbformat.NotebookNode:
    path = ROOT / "examples" / name
    read: nbformat.NotebookNode = nbformat.read(path, as_version=4)  # type: ignore[no-untyped-call]
    return read


def executed(
    name: str, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> list[dict[str, Any]]:
    """What the cells of an example show, by mime type; what they print is plain text."""
    for variable, value in environment.items():
        monkeypatch.setenv(variable, value)
    cells = notebook(name)
    nbclient.execute(cells, cwd=str(ROOT / "examples"), timeout=120)
    outputs = [output for cell in cells.cells for output in cell.get("outputs", [])]
    return [output.get("data", {"text/plain": output.get("text", "")}) for output in outputs]
