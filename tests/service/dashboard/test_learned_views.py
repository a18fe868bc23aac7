"""Tests the views of what was learned in a real browser: pixels of images, order of bars, maps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Page, expect
from safetensors import numpy as safetensors
from sklearn.datasets import load_digits

from drmad_client.files.png import data_url, pixels_of, png
from drmad_client.records.hyperparameters import HyperparameterInfo
from drmad_client.records.job import Best, Progress
from drmad_client.records.side_runs.examples import ExampleGroups, ExampleView, ShownExamples
from drmad_service.store import MetaIterationCommit, ResumePoint, Store
from drmad_service.store.layout.state_machine import Action
from tests import browser as browsers
from tests.browser import Server
from tests.service.dashboard import gallery
from tests.service.dashboard.page_checks import Do, looked_at

DIGITS, CLASSES = load_digits().images[:40], load_digits().target[:40]
RANDOM = np.random.default_rng(3)
LEARNED: dict[str, np.ndarray[Any, Any]] = {
    "training_data": RANDOM.normal(size=(30, 64)).astype(np.float32),
    "l2": np.log(np.repeat([0.01, 1.0, 0.1], 4)).astype(np.float32),
    "mixing": np.eye(9, dtype=np.float32),
    "class_weight": np.array([0.0, 2.0, -2.0], dtype=np.float32),
}


def _groups(labels: tuple[str, ...], each: int) -> list[dict[str, Any]]:
    return [
        {"label": label, "start": each * n, "stop": each * (n + 1)}
        for n, label in enumerate(labels)
    ]


INFOS: list[dict[str, Any]] = [
    {"name": "training_data", "kind": "training_data", "transform": "identity"},
    {
        "name": "l2",
        "kind": "l2",
        "transform": "exp",
        "groups": _groups(("first", "second", "third"), 4),
    },
    {"name": "mixing", "kind": "tensor", "transform": "identity"},
    {
        "name": "class_weight",
        "kind": "sample_weight",
        "transform": "sigmoid",
        "groups": _groups(("cat", "dog", "owl"), 1),
    },
]


def _point(iteration: int, values: dict[str, np.ndarray[Any, Any]]) -> ResumePoint:
    tensors = {f"hyperparameters/{name}": value for name, value in values.items()}
    return ResumePoint(iteration, safetensors.save(tensors), {"iteration": iteration})


async def _job(
    store: Store,
    kinds: list[dict[str, Any]],
    fields: list[dict[str, Any]],
    learned: dict[str, np.ndarray[Any, Any]],
) -> str:
    wanted = gallery.spec("learned", 1, hyperparameters=kinds, priority=90)
    job, _ = await store.create(wanted)
    lease = await store.claim("scheduler_gallery", 3600.0, gallery.CAPACITY)
    assert lease is not None
    assert lease.job_id == job.id
    infos = [
        HyperparameterInfo.model_validate(info | {"shape": list(learned[info["name"]].shape)})
        for info in fields
    ]
    untuned = {name: np.zeros_like(value) for name, value in learned.items()}
    await store.begin(lease, infos, _point(0, untuned))
    await store.act(lease, Action.RUN, "started")
    for iteration, values in enumerate((learned, learned)):
        record = {
            "iteration": iteration,
            "validation_loss": 1.0 - iteration / 2,
            "training_loss": 0.5,
            "hypergradient_norm": 0.1,
            "method": "shortcut",
            "is_best": True,
        }
        await store.commit(
            lease,
            MetaIterationCommit(
                iteration=iteration,
                record=record,
                next_state=_point(iteration + 1, values),
                hypergradient=_point(0, untuned).tensors,
                model=None,
                progress=Progress(iteration=iteration + 1, iterations=2),
                best=Best(iteration=iteration, validation_loss=1.0 - iteration / 2, metrics={}),
            ),
        )
    await store.act(lease, Action.SUCCEED, "iterations", "completed")
    return job.id


def test_each_kind_has_its_view(page: Page, server: Server, do: Do[Any]) -> None:
    kinds = [{"kind": "training_data"}, {"kind": "l2"}]
    job = do(lambda store: _job(store, kinds, INFOS, LEARNED))
    page.goto(f"{server.url}/jobs/{job}")
    images = page.locator('learned-entries[kind="images"]:not([found])')
    images.scroll_into_view_if_needed()
    expect(images.locator("li")).to_have_count(24)
    for row in (0, 23):
        shown = images.locator("li").nth(row).locator("img").first
        grey = np.array(shown.evaluate(browsers.PIXELS), dtype=float)
        values = LEARNED["training_data"][row]
        expected = 255 * (values - values.min()) / np.ptp(values)
        np.testing.assert_allclose(grey, expected, atol=0.51)
    for name, labels in (
        ("l2", ["second", "third", "first"]),
        ("class_weight", ["dog", "cat", "owl"]),
    ):
        chart = page.locator(f'job-chart[name="learned-{name}"]')
        chart.scroll_into_view_if_needed()
        expect(chart).to_have_attribute("data-state", "drawn")
        ticks = chart.locator(".ytick text")
        expect(ticks).to_have_count(3)
        downwards = ticks.evaluate_all(
            "(ticks) => ticks.sort((one, other) => one.getBoundingClientRect().y"
            " - other.getBoundingClientRect().y).map((tick) => tick.textContent)"
        )
        assert downwards == labels
    mixing = page.locator('job-chart[name="learned-mixing"]')
    mixing.scroll_into_view_if_needed()
    expect(mixing.locator(".heatmaplayer image")).to_have_count(1)
    section = page.locator("section.learned", has_text="12 values")
    highest = section.locator('learned-entries[src*="order=highest"] li').first
    highest.scroll_into_view_if_needed()
    expect(highest).to_contain_text("l2, second[0]")
    expect(highest.locator("b")).to_have_text("1")
    search = page.locator("section.learned", has_text="81 values").get_by_role("searchbox")
    search.fill("80")
    found = page.locator("learned-entries[found] li")
    expect(found).to_have_text(["mixing[8, 8]1from 0"])
    looked_at(page, "learned-values", page.locator("#learned"))


def test_penalties_per_pixel_are_an_image_beside_the_layers(
    page: Page, server: Server, do: Do[Any]
) -> None:
    penalties = np.log(np.concatenate([np.linspace(0.001, 0.1, 64), [0.5] * 4])).astype(np.float32)
    fields: dict[str, Any] = {"name": "l2", "kind": "l2", "transform": "exp"}
    fields["groups"] = [
        {"label": "first", "start": 0, "stop": 64},
        {"label": "second", "start": 64, "stop": 68},
    ]
    job = do(lambda store: _job(store, [{"kind": "l2"}], [fields], {"l2": penalties}))
    page.goto(f"{server.url}/jobs/{job}")
    chart = page.locator('job-chart[name="image-l2"]')
    chart.scroll_into_view_if_needed()
    expect(chart).to_have_attribute("data-state", "drawn")
    texts = chart.evaluate("(chart) => chart.figure.data[0].text")
    shown = np.array([[float(text) for text in row] for row in texts])
    np.testing.assert_allclose(shown, np.exp(penalties[:64]).reshape(8, 8), rtol=6e-3)
    layers = page.locator('job-chart[name="learned-l2"] .ytick text')
    expect(layers).to_have_count(2)
    looked_at(page, "learned-penalties", page.locator("#learned"))


def test_schedules_are_curves_by_layer_over_the_untuned_ones(
    page: Page, server: Server, do: Do[Any]
) -> None:
    steps = np.linspace(-3.0, -1.0, 50, dtype=np.float32)
    learned = {"learning_rate": np.stack([steps, steps[::-1]])}
    fields: dict[str, Any] = {"name": "learning_rate", "kind": "learning_rate", "transform": "exp"}
    fields |= {"groups": _groups(("first", "second"), 50)}
    kinds = [{"kind": "learning_rate", "per": "step_and_layer"}]
    job = do(lambda store: _job(store, kinds, [fields], learned))
    page.goto(f"{server.url}/jobs/{job}")
    chart = page.locator('job-chart[name="learned-learning_rate"]')
    chart.scroll_into_view_if_needed()
    expect(chart).to_have_attribute("data-state", "drawn")
    expect(chart.locator(".legend button")).to_have_text(["untuned", "first", "second"])
    slopes = chart.evaluate(
        """(chart) => Object.fromEntries(chart.figure.data.map(({ name, y }) =>
            [name, [y[0], y.at(-1)]]))"""
    )
    tuned = {label: ends for label, ends in slopes.items() if ends[0] != ends[1]}
    assert len(tuned) == 2
    rising = next(ends for label, ends in tuned.items() if "first" in label)
    falling = next(ends for label, ends in tuned.items() if "second" in label)
    np.testing.assert_allclose(rising, np.exp([-3.0, -1.0]), rtol=1e-3)
    np.testing.assert_allclose(falling, np.exp([-1.0, -3.0]), rtol=1e-3)
    assert any(ends == [1.0, 1.0] for ends in slopes.values())  # untuned, exp(0)
    looked_at(page, "learned-schedules", page.locator("#learned"))


def _as_text(row: int) -> ExampleView:
    return ExampleView(text=f"<b>review</b> {row}: the plot is thin, the actors are not")


def _as_table_row(row: int) -> ExampleView:
    return ExampleView(text=f"age {20 + row}, clinic harbour, progression {7 * row}")


def _as_picture(row: int) -> ExampleView:
    return ExampleView(picture=data_url(png(pixels_of(DIGITS[row]))))


@pytest.mark.parametrize(
    ("name", "view"), [("texts", _as_text), ("table", _as_table_row), ("weights", _as_picture)]
)
def test_the_lowest_weights_stand_beside_their_examples(
    page: Page, server: Server, do: Do[Any], name: str, view: Callable[[int], ExampleView]
) -> None:
    weights = np.linspace(-4.0, 4.0, 40, dtype=np.float32)[RANDOM.permutation(40)]
    fields = {"name": "sample_weight", "kind": "sample_weight", "transform": "sigmoid"}
    labels = ((CLASSES + 3 * (weights < 0)) % 10).tolist()  # a low weight has a wrong label

    async def made(store: Store) -> str:
        kinds = [{"kind": "sample_weight"}]
        job = await _job(store, kinds, [fields], {"sample_weight": weights})
        views = {row: view(row) for row in range(40)}
        groups = {"class": ExampleGroups(labels=[*"0123456789"], numbers=labels)}
        await store.answer_examples("asked", job, ShownExamples(views=views, groups=groups))
        return job

    page.goto(f"{server.url}/jobs/{do(made)}")
    order = np.argsort(weights)
    for title, rows in (("lowest", order[:12]), ("highest", order[::-1][:12])):
        shown = page.locator(f'learned-entries[src*="order={title}"]')
        shown.scroll_into_view_if_needed()
        expect(shown).to_have_attribute("data-examples", "shown")
        texts = [text.strip() for text in shown.locator("li .what").all_text_contents()]
        assert texts == [f"{view(row).text or ''} class {labels[row]}".strip() for row in rows]
        values = [float(text) for text in shown.locator("li b").all_text_contents()]
        np.testing.assert_allclose(values, 1 / (1 + np.exp(-weights[rows])), rtol=6e-3)
        if name == "weights":
            for place, row in enumerate(rows[:3]):
                drawn = shown.locator("li img").nth(place).evaluate(browsers.PIXELS)
                expected = pixels_of(DIGITS[row]).ravel()
                np.testing.assert_allclose(np.array(drawn), expected, atol=0.51)
    looked_at(page, f"learned-{name}", page.locator("#learned"))
