"""Tests the editor of a job in a real browser: completion, help and marks from the job's schema."""

from __future__ import annotations

import json
import re
from importlib import resources
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from drmad_client.spec import capabilities
from drmad_service.dashboard import assets
from tests.browser import Server, editor

PLACES: list[tuple[str, list[object]]] = [
    ("na|", [[], None, "na"]),
    ("problem:\n  model: {name: m|", [["problem", "model"], "name", "m"]),
    ("problem:\n  model: {name: mlp, |", [["problem", "model"], None, ""]),
    ("hyperparameters:\n- kind: l2\n- k|", [["hyperparameters", 1], None, "k"]),
    ("hyperparameters:\n  - kind: l2\n    per: |", [["hyperparameters", 0], "per", ""]),
    ("hyperparameters:\n- kind: l2\nmeta:\n  |", [["meta"], None, ""]),
    ("hyperparameters: [{kind: l2}, {ki|", [["hyperparameters", 1], None, "ki"]),
    ("a:\n  b:\n    c: 1\n  d|", [["a"], None, "d"]),
    ("training:\n  groups:\n    - {match: 'a: b', we|", [["training", "groups", 0], None, "we"]),
    ("training: {\n  steps: 3,\n  opt|", [["training"], None, "opt"]),
    ("name: a # problem: x\nk|", [[], None, "k"]),
    ("name: |", [[], "name", ""]),
]


@pytest.mark.parametrize(("text", "place"), PLACES)
def test_a_place_of_an_unfinished_text_is_found(
    page: Page, server: Server, text: str, place: list[object]
) -> None:
    page.goto(f"{server.url}/sign-in")
    module = assets.url("yaml_schema.js")
    found = page.evaluate(
        """async ([module, text, offset]) => {
            const { placeIn } = await import(module);
            const { path, key, word } = placeIn(text, offset);
            return [path, key, word];
        }""",
        [module, text.replace("|", ""), text.index("|")],
    )
    assert found == place


def test_every_variant_of_the_schema_is_told_apart(page: Page, server: Server) -> None:
    page.goto(f"{server.url}/sign-in")
    schema = capabilities.describe()["schema"]
    asked = [
        (["hyperparameters", 0], {"hyperparameters": [{"kind": kind}]})
        for kind in ("l2", "momentum", "tensor")
    ]
    keys = page.evaluate(
        """async ([module, schema, asked]) => {
            const { JobSchema } = await import(module);
            const known = new JobSchema(schema);
            return asked.map(([path, job]) => [...known.keys(path, job).keys()]);
        }""",
        [assets.url("yaml_schema.js"), schema, asked],
    )
    for names, (_, job) in zip(keys, asked, strict=True):
        kind = job["hyperparameters"][0]["kind"]
        variants = [
            set(each["properties"])
            for each in schema["$defs"].values()
            if each.get("properties", {}).get("kind", {}).get("const") == kind
        ]
        assert [set(names) | {"kind"}] == variants


def test_keys_and_values_are_completed_and_explained(page: Page, server: Server) -> None:
    page.goto(f"{server.url}/new")
    expect(page.locator("#verdict")).to_contain_text("can be submitted")
    text, held = editor(page), page.locator("#yaml")
    text.fill(
        "name: mine\nproblem:\n  model: {name: mlp}\n  data: {name: digits}\n"
        "hyperparameters:\n  - kind: "
    )
    options = page.get_by_role("listbox", name="Completions").get_by_role("option")
    expect(held).to_have_value(re.compile("- kind: $"))  # the editor has taken the text
    page.keyboard.press("Control+End")
    page.keyboard.type("mo")
    expect(options).to_have_text(["momentum"])
    page.wait_for_timeout(150)  # the list takes no key before the reader can have seen it
    page.keyboard.press("Enter")
    expect(held).to_have_value(re.compile("kind: momentum$"))
    expect(page.locator("#verdict")).to_contain_text("can be submitted")
    page.keyboard.press("Enter")
    page.keyboard.type("p")
    expect(options.first).to_contain_text("per")
    expect(options.first).to_contain_text("layer")
    page.keyboard.press("Escape")
    page.keyboard.type("er: ")
    page.keyboard.press("Control+Space")
    expect(options).to_have_text(["group", "layer", "model", "step", "step_and_layer"])
    page.keyboard.press("Escape")
    word = page.locator("yaml-editor .cm-line", has_text="data:").get_by_text("digits")
    word.hover()
    word.hover(position={"x": 8, "y": 8})  # help follows a pointer that moves
    expect(page.locator("yaml-editor .help")).to_contain_text("problem.data.name")
    expect(page.locator("yaml-editor .help")).to_contain_text("breast_cancer | ")


def test_lines_have_numbers_and_marks_with_the_message(page: Page, server: Server) -> None:
    page.goto(f"{server.url}/new")
    expect(page.locator("#verdict")).to_contain_text("can be submitted")
    expect(page.locator("yaml-editor .cm-lineNumbers")).to_contain_text("3")
    editor(page).fill("name: a\nproblem:\n  model: {name: mlp}\n  data: {name: digitz}\n")
    marks = page.locator("yaml-editor .cm-lint-marker-error")
    expect(marks).to_have_count(1)
    marks.hover()
    expect(page.locator("yaml-editor .cm-tooltip-lint")).to_contain_text("problem.data")
    line = page.locator("#verdict button", has_text="Line 4")
    line.click()
    expect(page.locator("yaml-editor .cm-activeLine")).to_contain_text("digitz")
    colours = (
        page.locator("yaml-editor .cm-line")
        .first.locator("span")
        .evaluate_all("(spans) => spans.map((span) => getComputedStyle(span).color)")
    )
    assert len(set(colours)) > 1


def test_the_bundle_is_that_of_the_recipe_and_has_its_licences() -> None:
    recipe = json.loads(Path("deploy/editor/package.json").read_text())
    vendor = resources.files("drmad_service.dashboard") / "static" / "vendor"
    banner = (vendor / "codemirror.min.js").read_text().partition("\n")[0]
    licences = (vendor / "LICENSE-codemirror").read_text()
    for package, version in recipe["dependencies"].items():
        assert f"{package} {version}" in banner
        assert f"\n{package} {version}\n" in licences
