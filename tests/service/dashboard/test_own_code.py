"""Tests that code comes from the browser: a folder or a zip archive, without what is no code."""

from __future__ import annotations

import base64
import io
import re
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from playwright.sync_api import Browser, Page, expect

from drmad_client.files import code_archive
from drmad_service.dashboard import assets
from drmad_service.store import Store
from tests import browser as browsers
from tests.browser import Server, Trouble
from tests.service.dashboard.page_checks import Do

PROBLEM = "def build(options) -> Problem:\n    return Problem()\n"
FILES = {
    "mine/problem.py": PROBLEM,
    "mine/__init__.py": "",
    "other.py": "def helper():\n    pass\n\ndef build():\n    pass\n",
    "notes.md": "π" * 3000,
    ".gitignore": "data/\n/top.txt\n!data/kept.csv\n*.log\n",
    "data/rows.csv": "1,2\n",
    "top.txt": "x",
    "mine/top.txt": "x",
    "run.log": "x",
    ".env": "SECRET=1",
    "wandb/run/x": "x",
    "mine/__pycache__/problem.cpython-311.pyc": "x",
}
TAKEN = {
    ".gitignore",
    "mine/__init__.py",
    "mine/problem.py",
    "mine/top.txt",
    "notes.md",
    "other.py",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        (tmp_path / "project" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "project" / name).write_text(text)
    return tmp_path / "project"


def zipped(folder: Path) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(folder.rglob("*")):
            archive.write(path, path.relative_to(folder.parent))
    return packed.getvalue()


def problem_of(page: Page) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(page.locator("#yaml").input_value())["problem"]
    return found


def uploaded(do: Do[Any], name: str) -> dict[str, bytes]:
    """The files of an uploaded archive, as a worker unpacks it."""

    async def content(store: Store) -> bytes:
        return await store.code(name)

    archive = do(content)
    code_archive.check(archive)
    with zipfile.ZipFile(io.BytesIO(archive)) as opened:
        return {name: opened.read(name) for name in opened.namelist()}


def test_a_folder_is_packed_without_what_is_no_code_and_its_builder_is_found(
    page: Page, server: Server, do: Do[Any], folder: Path
) -> None:
    page.goto(f"{server.url}/new")
    expect(page.locator("#verdict")).to_contain_text("can be submitted")
    page.locator("#code-folder").set_input_files(folder)
    report = page.locator("#code")
    expect(report).to_contain_text(f"Uploaded {len(TAKEN)} files")
    expect(report).to_contain_text("data/rows.csv")
    expect(report).to_contain_text("Left out")
    expect(page.locator("#yaml")).to_have_value(re.compile("code: sha256:"))
    expect(page.locator("#verdict")).to_contain_text("can be submitted")
    problem = problem_of(page)
    assert problem["entrypoint"] == "mine.problem:build"
    files = uploaded(do, problem["code"])
    assert set(files) == TAKEN
    assert {name: content.decode() for name, content in files.items()} == {
        name: FILES[name] for name in TAKEN
    }
    assert set(code_archive.pack(folder).files) == TAKEN  # the command line takes the same files
    report.get_by_label("Entry point").select_option("other:build")
    expect(page.locator("#yaml")).to_have_value(re.compile("entrypoint: other:build"))
    expect(page.locator("#verdict")).to_contain_text("can be submitted")
    assert problem_of(page)["entrypoint"] == "other:build"
    assert problem_of(page)["code"] == problem["code"]


def test_an_archive_is_dropped_on_the_text(
    page: Page, server: Server, do: Do[Any], folder: Path
) -> None:
    page.goto(f"{server.url}/new")
    expect(page.locator("#verdict")).to_contain_text("can be submitted")
    transfer = page.evaluate_handle(
        """(text) => {
            const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
            const transfer = new DataTransfer();
            transfer.items.add(new File([bytes], "project.zip", { type: "application/zip" }));
            return transfer;
        }""",
        base64.b64encode(zipped(folder)).decode(),
    )
    text = page.locator("yaml-editor .cm-content")
    for event in ("dragover", "drop"):
        text.dispatch_event(event, {"dataTransfer": transfer})
    expect(page.locator("#code")).to_contain_text(f"Uploaded {len(TAKEN)} files")
    expect(page.locator("#yaml")).to_have_value(re.compile("code: sha256:"))
    expect(page.locator("#verdict")).to_contain_text("can be submitted")
    assert set(uploaded(do, problem_of(page)["code"])) == TAKEN


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"no archive", "Expected a zip archive"), (b"", "Expected a zip archive"), (None, "Python")],
)
def test_what_is_no_code_is_refused_and_the_job_stays(
    browser: Browser, server: Server, content: bytes | None, words: str
) -> None:
    if content is None:
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w") as archive:
            archive.writestr("readme.md", "no code")
        content = packed.getvalue()
    trouble = Trouble()
    with browsers.window(browser, trouble) as (_, page):
        page.goto(f"{server.url}/new")
        expect(page.locator("#verdict")).to_contain_text("can be submitted")
        before = page.locator("#yaml").input_value()
        page.locator("#code-zip").set_input_files(
            {"name": "a.zip", "mimeType": "application/zip", "buffer": content}
        )
        expect(page.locator("#toasts")).to_contain_text(words)
        expect(page.locator("#yaml")).to_have_value(before)
    assert trouble.found == []


@pytest.mark.parametrize(
    ("lines", "path", "is_out"),
    [
        (["*.log"], "a/b.log", True),
        (["/b.log"], "a/b.log", False),
        (["a/**/c"], "a/x/y/c", True),
        (["a/**/c"], "a/c", True),
        (["**/c"], "x/c/d", True),
        (["build/"], "build", False),
        (["build/"], "x/build/y", True),
        (["*.py", "!keep.py"], "keep.py", False),
        (["a?c"], "abc", True),
        (["a?c"], "a/c", False),
        (["# a", "", "a+b(1)"], "a+b(1)", True),
    ],
)
def test_patterns_mean_what_they_mean_to_git(
    page: Page, server: Server, lines: list[str], path: str, is_out: bool
) -> None:
    page.goto(f"{server.url}/sign-in")
    found = page.evaluate(
        "async ([module, lines, path]) => (await import(module)).ignoring(lines)(path)",
        [assets.url("code_archive.js"), lines, path],
    )
    assert found is is_out
