"""Figures of histories that are known, and of long ones; plotly judges every one of them."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import plotly.io
import pytest

from drmad_client.plots import figures, learned_overview, learned_values, palette, panels
from drmad_client.plots.figures import FIGURES, Material
from drmad_client.plots.panels import Figure
from drmad_client.records.hyperparameters import (
    GroupSummary,
    HyperparameterGroup,
    HyperparameterInfo,
    HyperparameterSummary,
)
from drmad_client.records.meta_iteration import MetaIteration, ReplicaFigures
from drmad_client.records.search import Trial
from drmad_client.records.side_runs.confirmation import Interval
from drmad_client.spec.job import JobSpec
from tests.client import samples

LAYERS = [f"{number}.weight" for number in range(4)]
INFOS = [
    HyperparameterInfo(
        name="l2",
        kind="l2",
        shape=[16],
        transform="exp",
        groups=[
            HyperparameterGroup(label=label, start=4 * n, stop=4 * n + 4)
            for n, label in enumerate(LAYERS)
        ],
    ),
    HyperparameterInfo(
        name="learning_rate",
        kind="learning_rate",
        shape=[2, 3],
        transform="exp",
        groups=[
            HyperparameterGroup(label="0.weight", start=0, stop=3),
            HyperparameterGroup(label="0.bias", start=3, stop=6),
        ],
    ),
]
BEFORE = {"l2": np.zeros(16), "learning_rate": np.zeros((2, 3))}
AFTER = {"l2": np.arange(16.0), "learning_rate": np.log([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])}


def summary(*five: float, groups: dict[str, float] | None = None) -> HyperparameterSummary:
    names = ("minimum", "lower_quartile", "median", "upper_quartile", "maximum")
    return HyperparameterSummary(
        **dict(zip(names, five, strict=True)),
        hypergradient_norm=0.5,
        groups=[
            GroupSummary(label=label, median=median, hypergradient_norm=0.25)
            for label, median in (groups or {}).items()
        ],
    )


def replica(number: int, cosine: float) -> ReplicaFigures:
    (only,) = samples.record(0).replicas
    return only.model_copy(update={"replica": number, "cosine_to_mean": cosine})


def trial(number: int, loss: float | None) -> Trial:
    return Trial(
        number=number,
        at=samples.START,
        state="diverged" if loss is None else "done",
        values={"training.learning_rate": 0.1 * number, "problem.model.activation": "<b>"},
        validation_loss=loss,
    )


def record(iteration: int, **changes: Any) -> MetaIteration:
    return samples.record(iteration).model_copy(update=changes)


@pytest.fixture(scope="module")
def long_history() -> list[MetaIteration]:
    random = np.random.default_rng(0)
    return [
        record(
            iteration,
            validation_loss=float(random.random()),
            training_loss=float(random.random()),
            metrics={name: float(random.random()) for name in ("validation_error", "test_error")},
            cosine_to_previous=float(random.random()),
            hyperparameters={
                name: summary(
                    *np.sort(random.random(5)).tolist(),
                    groups={f"{name} {label}": float(random.random()) for label in LAYERS * 5},
                )
                for name in ("l2", "l1", "momentum")
            },
            replicas=[replica(number, float(random.random())) for number in range(4)],
        )
        for iteration in range(5000)
    ]


def lines(figure: Figure) -> dict[str, tuple[list[float], list[float | None]]]:
    return {trace["name"]: (trace["x"], trace["y"]) for trace in figure["data"]}


@pytest.mark.parametrize("name", FIGURES)
@pytest.mark.parametrize("history", [[], [record(0)], [record(n) for n in range(3)]])
def test_every_figure_is_one_for_plotly(name: str, history: list[MetaIteration]) -> None:
    material = Material(history, INFOS, BEFORE, AFTER, (2, 2))
    for given in (material, Material(history)):
        figure = figures.draw(name, given, template="plotly_dark")
        assert figures.to_plotly(figure).layout.title.text == FIGURES[name].title
        plotly.io.from_json(json.dumps(figure, allow_nan=False))
        if not figure["data"]:
            (note,) = figure["layout"]["annotations"]
            assert note["text"]


@pytest.mark.parametrize("name", FIGURES)
def test_long_histories_stay_small(name: str, long_history: list[MetaIteration]) -> None:
    tried = [trial(number, 1.0 / (1 + number)) for number in range(1000)]
    material = Material(long_history, INFOS, BEFORE, AFTER, (2, 2), samples.MEASURED, tried)
    figure = figures.draw(name, material)
    assert figure["data"]
    assert len(json.dumps(figure)) < 200_000


@pytest.mark.parametrize("name", FIGURES)
def test_colours_of_text_and_paper_are_left_to_the_viewer(name: str) -> None:
    layout = figures.draw(name, Material([record(0)], INFOS, BEFORE, AFTER, (2, 2)))["layout"]
    text = json.dumps(layout)
    for word in ("template", "font", "bgcolor", '"color"'):
        assert word not in text


def test_a_figure_reads_records_and_their_json_alike() -> None:
    history = [record(n) for n in range(3)]
    plain = [json.loads(r.model_dump_json()) for r in history]
    assert figures.losses(plain) == figures.losses(history)


def test_losses_show_what_was_measured_and_where_the_best_is() -> None:
    history = [
        record(n, validation_loss=loss, metrics={"test_loss": 2 * loss, "test_error": loss / 10})
        for n, loss in enumerate([3.0, 1.0, 2.0])
    ]
    drawn = lines(figures.losses(history))
    assert drawn["validation"] == ([1, 2, 3], [3.0, 1.0, 2.0])
    assert drawn["training"] == ([1, 2, 3], [0.5, 0.5, 0.5])
    assert drawn["test"] == ([1, 2, 3], [6.0, 2.0, 4.0])
    assert drawn["test error"] == ([1, 2, 3], [0.3, 0.1, 0.2])
    assert drawn["best"] == ([2], [1.0])


def test_the_gap_of_overfitting_has_a_panel_and_the_fitted_loss_a_curve() -> None:
    history = [
        record(n, metrics={"fitted_loss": 1.0 - gap, "overfitting": gap})
        for n, gap in enumerate([0.0, 0.25])
    ]
    drawn = lines(figures.losses(history))
    assert drawn["fitted"] == ([1, 2], [1.0, 0.75])
    assert drawn["overfitting"] == ([1, 2], [0.0, 0.25])


def test_probes_and_rollbacks_are_marked_on_the_loss() -> None:
    history = [
        record(n, validation_loss=3.0 - n, choice={"probes": []} if n == 1 else None)
        for n in range(3)
    ]
    drawn = lines(figures.losses(history, rollbacks=[2, 7]))
    assert drawn["fidelity probe"] == ([2], [2.0])
    assert drawn["rollback"] == ([3], [1.0])


def test_the_smoothed_loss_has_its_band_and_the_star_of_the_best() -> None:
    levels = [(3.0, None), (2.5, None), (2.0, 0.5), (2.25, 0.25)]
    history = [
        record(
            n,
            smoothed={
                "validation_loss": Interval(
                    mean=mean,
                    low=None if half is None else mean - half,
                    high=None if half is None else mean + half,
                )
            },
            is_best=n in (0, 2),
        )
        for n, (mean, half) in enumerate(levels)
    ]
    drawn = lines(figures.losses(history))
    assert drawn["validation, smoothed"] == ([3, 4], [2.0, 2.25])
    assert drawn["validation, lower end"] == ([3, 4], [1.5, 2.0])
    assert drawn["validation, upper end"] == ([3, 4], [2.5, 2.5])
    assert drawn["best"] == ([3], [2.0])


def test_what_is_no_number_is_a_gap() -> None:
    history = [record(n, validation_loss=loss) for n, loss in enumerate([1.0, math.nan, math.inf])]
    assert lines(figures.losses(history))["validation"][1] == [1.0, None, None]


def test_each_hyperparameter_has_bands_on_an_axis_of_its_own() -> None:
    history = [
        record(n, hyperparameters={"l2": summary(1, 2, 3, 4, 5), "mixing": summary(6, 7, 8, 9, 10)})
        for n in range(2)
    ]
    figure = figures.hyperparameters(history, INFOS)
    drawn = [(t["name"], t["yaxis"], t["y"]) for t in figure["data"]]
    names = ["minimum", "maximum", "lower quartile", "upper quartile", "median"]
    levels = [1, 5, 2, 4, 3]
    assert drawn == [(n, "y", [v, v]) for n, v in zip(names, levels, strict=True)] + [
        (n, "y2", [v + 5, v + 5]) for n, v in zip(names, levels, strict=True)
    ]
    assert figure["layout"]["yaxis"]["type"] == "log"
    assert "type" not in figure["layout"]["yaxis2"]


def test_layers_are_a_map_of_medians() -> None:
    history = [
        record(
            n,
            hyperparameters={
                "l2": summary(1, 2, 3, 4, 5, groups={"0.weight": 10.0**-n, "1.weight": 100.0})
            },
        )
        for n in range(3)
    ]
    (trace,) = figures.layers(history, INFOS)["data"]
    assert (trace["x"], trace["y"]) == ([1, 2, 3], ["0.weight", "1.weight"])
    assert trace["z"] == [[0.0, -1.0, -2.0], [2.0, 2.0, 2.0]]


def test_no_hyperparameter_hides_another_of_the_same_layer() -> None:
    """Learning rate and momentum label their segments alike."""
    labels = {"0.weight": 1e-3, "0.bias": 1e-2}
    history = [
        record(
            n,
            hyperparameters={
                "learning_rate": summary(1, 2, 3, 4, 5, groups=labels),
                "momentum": summary(1, 2, 3, 4, 5, groups=dict.fromkeys(labels, 0.9)),
            },
        )
        for n in range(2)
    ]
    rates, momenta = figures.layers(history, INFOS)["data"]
    assert rates["z"] == [[-3.0, -3.0], [-2.0, -2.0]]
    assert rates["text"] == [["0.001", "0.001"], ["0.01", "0.01"]]
    assert momenta["z"] == [[0.9, 0.9], [0.9, 0.9]]
    assert rates["yaxis"] != momenta["yaxis"]
    drawn = lines(figures.hypergradient_norms(history))
    assert list(drawn) == ["all"] + [
        f"{name}, {label}" for name in ("learning_rate", "momentum") for label in labels
    ]


def test_every_metric_of_the_job_is_drawn() -> None:
    metrics = {"test_loss": 1.0, "test_error": 0.1, "valid_accuracy": 0.9, "auc": 0.8, "bleu": 31.0}
    figure = figures.losses([record(n, metrics=metrics) for n in range(2)])
    assert set(lines(figure)) >= {"test", "test error", "valid accuracy", "auc", "bleu"}
    titles = {
        name: axis["title"]["text"] for name, axis in figure["layout"].items() if "axis" in name
    }
    assert sorted(titles.values()) == ["accuracy", "auc", "bleu", "error", "loss", "meta-iteration"]


def test_a_metric_has_one_panel_for_all_data_and_what_has_none_is_named() -> None:
    values = {f"{split}_m{n}": 1.0 for n in range(20) for split in ("validation", "test")}
    figure = figures.losses([record(n, metrics=values) for n in range(3)])
    assert {trace["yaxis"] for trace in figure["data"] if trace["name"].endswith(" m0")} == {"y2"}
    assert sum(name.startswith("yaxis") for name in figure["layout"]) == 12
    (note,) = figure["layout"]["annotations"]
    assert (
        note["text"]
        == f"not drawn, and in the history: {', '.join(f'm{n}' for n in range(11, 20))}"
    )
    few = figures.losses([record(0, metrics={"auc": 0.5})])
    assert "annotations" not in few["layout"]


def test_names_with_markup_are_drawn_as_they_are() -> None:
    """plotly interprets some HTML tags in names, titles and labels."""
    name = "<b>f1</b>"
    figure = figures.losses([record(n, metrics={name: 0.5}) for n in range(3)])
    assert figure["layout"]["yaxis2"]["title"]["text"] == "&lt;b>f1&lt;/b>"
    assert figure["data"][-1]["name"] == "&lt;b>f1&lt;/b>"
    info = HyperparameterInfo(
        name=name,
        kind="tensor",
        shape=[2],
        transform="identity",
        groups=[HyperparameterGroup(label=f"<i>{n}</i>", start=n, stop=n + 1) for n in range(2)],
    )
    drawn = [
        learned_overview.overview(info, np.arange(2.0), np.zeros(2)),
        learned_values.movers({name: np.zeros(2)}, {name: np.arange(2.0)}, [info]),
    ]
    texts = json.dumps(drawn)
    assert "&lt;i>1&lt;/i>" in texts
    assert "<i>" not in texts
    assert "<b>" not in texts


def test_a_logarithmic_axis_has_one_notation() -> None:
    assert panels.log_axis([0.002, 1.0, None])["tickformat"] == "~g"
    assert panels.log_axis([2e-5, 1.0, 0.0])["tickformat"] == "~e"
    assert panels.log_axis([])["tickformat"] == "~g"


def test_the_axis_of_a_share_ends_at_its_bound() -> None:
    """The band of few meta-iterations is wider than what an error can be."""
    band = Interval(mean=0.9, low=-2.0, high=4.0)
    for error, ends in ((0.5, True), (1.5, False)):
        history = [
            record(n, metrics={"test_error": error + 0.45 * n}, smoothed={"test_error": band})
            for n in range(2)
        ]
        axis = figures.losses(history)["layout"]["yaxis2"]
        assert (axis["range"][1] == 1.02) == ends


def test_the_star_is_at_the_best_of_the_job() -> None:
    """An online job measures its metrics at some windows, and its best is one of these."""
    history = [record(n) for n in range(4)]
    lowest = lines(figures.losses(history))["best"]
    assert lowest != ([2], [history[1].validation_loss])
    assert lines(figures.losses(history, best=1))["best"] == ([2], [history[1].validation_loss])


def test_a_single_value_has_the_name_of_its_hyperparameter() -> None:
    info = HyperparameterInfo(name="l2", kind="l2", shape=[1], transform="exp")
    figure = learned_overview.overview(info, np.zeros(1), np.ones(1))
    assert figure["data"][0]["y"] == ["l2"]
    moved = learned_values.movers({"l2": np.zeros(1)}, {"l2": np.ones(1)}, [info])
    assert moved["data"][0]["y"] == ["l2"]


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_has_at_most_as_many_lines_as_there_are_colours(
    name: str, long_history: list[MetaIteration]
) -> None:
    many = [replica(number, 0.1 * number) for number in range(14)]
    history = [each.model_copy(update={"replicas": many}) for each in long_history[:3]]
    steps = {"learning_rate": np.zeros((14, 3))}
    info = INFOS[1].model_copy(
        update={
            "shape": [14, 3],
            "groups": [
                HyperparameterGroup(label=f"layer {n}", start=3 * n, stop=3 * n + 3)
                for n in range(14)
            ],
        }
    )
    figure = figures.draw(name, Material(history, [info], steps, steps))
    named = [
        (trace["yaxis"], trace["line"]["color"], trace["line"]["dash"])
        for trace in figure["data"]
        if trace.get("showlegend", True) and "dash" in trace.get("line", {})
    ]
    assert len(named) == len(set(named)) <= len(palette.LIGHT)


def test_penalties_of_the_first_layer_are_an_image() -> None:
    (trace,) = figures.draw("penalty_image", Material([], INFOS, BEFORE, AFTER, (2, 2)))["data"]
    assert trace["z"] == [[0.0, 0.43429], [0.86859, 1.3029]]
    assert trace["text"] == [["1", "2.72"], ["7.39", "20.1"]]
    averaged = figures.penalty_image(np.array([0.0, 1, 2, 3, 4, 5, 6, 7]), (2, 2))
    assert averaged["data"][0]["text"] == [["7.39", "20.1"], ["54.6", "148"]]
    with pytest.raises(ValueError, match="whole images of 4 pixels, got 3 values"):
        figures.penalty_image(np.zeros(3), (2, 2))


@pytest.mark.parametrize(("name", "shape"), [("digits", (8, 8)), ("mnist", (28, 28))])
def test_images_of_the_catalog_are_known(name: str, shape: tuple[int, int]) -> None:
    spec = samples.SPEC | {"problem": {"data": {"name": name}}}
    assert learned_values.image_shape(JobSpec.model_validate(spec)) == shape


def test_schedules_are_drawn_by_step_and_layer_in_the_users_units() -> None:
    figure = figures.draw("schedules", Material([], INFOS, BEFORE, AFTER))
    assert lines(figure) == {
        "0.weight": ([0, 1, 2], [1.0, 2.0, 3.0]),
        "0.bias": ([0, 1, 2], [4.0, 5.0, 6.0]),
        "untuned": ([0, 1, 2], [1.0, 1.0, 1.0]),
    }


def test_norms_are_labelled_by_group() -> None:
    groups = {"0.weight": 1.0, "1.weight": 1.0}
    history = [
        record(n, hyperparameters={"l2": summary(1, 2, 3, 4, 5, groups=groups)}) for n in range(2)
    ]
    drawn = lines(figures.hypergradient_norms(history))
    assert drawn["all"] == ([1, 2], [0.01, 0.01])
    assert drawn["0.weight"] == drawn["1.weight"] == ([1, 2], [0.25, 0.25])


def test_cosines_are_those_between_iterations_and_between_replicas() -> None:
    history = [
        record(0, replicas=[replica(0, 0.9), replica(1, 0.8)]),
        record(1, replicas=[replica(0, 0.7), replica(1, 0.6)], cosine_to_previous=-0.5),
    ]
    assert lines(figures.cosines(history)) == {
        "to the previous one": ([2], [-0.5]),
        "replica 0 to the mean": ([1, 2], [0.9, 0.7]),
        "replica 1 to the mean": ([1, 2], [0.8, 0.6]),
    }


def test_time_is_shown_to_the_last_second() -> None:
    spent = {"forward": 1.0, "backward": 2.0, "evaluate": 0.5, "total": 4.0}
    figure = figures.seconds([record(n, seconds=spent) for n in range(3)])
    drawn = lines(figure)
    assert list(drawn) == ["forward", "evaluate", "backward", "other"]
    assert [y for _, y in drawn.values()] == [[1.0] * 3, [0.5] * 3, [2.0] * 3, [0.5] * 3]
    long = lines(figures.seconds([record(n, seconds=spent) for n in range(5000)]))
    assert np.mean([y for y in long["backward"][1] if y is not None]) == 2.0


def test_movers_are_named_and_in_order() -> None:
    (trace,) = figures.movers(BEFORE, AFTER, INFOS, count=3)["data"]
    assert trace["y"] == ["l2, 3.weight[3]", "l2, 3.weight[2]", "l2, 3.weight[1]"]
    assert trace["x"] == [15.0, 14.0, 13.0]
    assert trace["text"][0] == "1 → 3.27e6"
    (plain,) = figures.movers({"a": np.array([1.0, 1.0])}, {"a": np.array([0.0, 1.0])})["data"]
    assert (plain["y"], plain["x"]) == (["a[0]"], [-1.0])


def test_movers_of_groups_have_the_labels_of_the_groups() -> None:
    groups = [
        HyperparameterGroup(label=label, start=n, stop=n + 1)
        for n, label in enumerate(["books", "web"])
    ]
    info = HyperparameterInfo(
        name="mixture", kind="sample_weight", shape=[2], transform="sigmoid", groups=groups
    )
    (trace,) = figures.movers({"mixture": np.zeros(2)}, {"mixture": np.array([1.0, -2.0])}, [info])[
        "data"
    ]
    assert (trace["y"], trace["x"]) == (["mixture, web", "mixture, books"], [-2.0, 1.0])


def test_reduction_keeps_ends_peaks_and_order() -> None:
    random = np.random.default_rng(0)
    y = random.normal(size=10_000)
    y[[0, 1234, 7777, 9999]] = [5.0, 40.0, -40.0, 6.0]
    xs, ys = panels.reduced(list(range(10_000)), y.tolist(), 100)
    assert len(xs) <= 100
    assert xs == sorted(set(xs))
    assert (xs[0], xs[-1]) == (0, 9999)
    assert dict(zip(xs, ys, strict=True)).items() >= {1234: 40.0, 7777: -40.0}.items()
    assert all(ys[i] == y[int(x)] for i, x in enumerate(xs))
    assert panels.reduced([1, 2], [3.0, None], 100) == ([1, 2], [3.0, None])


def test_figures_are_saved_as_a_page_or_as_json(tmp_path: Path) -> None:
    figure = figures.losses([record(0)])
    figures.save(figure, tmp_path / "losses.json")
    assert json.loads((tmp_path / "losses.json").read_text()) == figure
    figures.save(figure, tmp_path / "losses.html")
    assert "<html>" in (tmp_path / "losses.html").read_text(encoding="utf-8")


def test_staleness_shows_the_largest_and_the_mean_of_the_arrivals() -> None:
    arrivals = [replica(0, 1.0).model_copy(update={"staleness": n}) for n in (0, 1, 5)]
    largest, mean = figures.staleness([record(0, replicas=arrivals)])["data"]
    assert (largest["y"], mean["y"]) == ([5], [2])


def test_trials_show_each_loss_and_the_lowest_so_far() -> None:
    tried = [trial(n, loss) for n, loss in enumerate([0.5, None, 0.7, 0.25])]
    points, line = figures.trials(tried)["data"]
    assert (points["x"], points["y"]) == ([1, 3, 4], [0.5, 0.7, 0.25])
    assert line["y"] == [0.5, 0.5, 0.25]
    assert points["text"][1] == (
        "training.learning_rate = 0.2<br>problem.model.activation = &lt;b>"
    )
    assert figures.trials(tried[1:2])["data"] == []


def test_fidelity_shows_the_methods_measured_and_which_was_chosen() -> None:
    (bars,) = figures.fidelity(samples.MEASURED)["data"]
    assert [label.strip() for label in bars["y"]] == [
        "shortcut<br>horizon 50",
        "shortcut<br>preset paper",
    ]
    assert bars["x"] == [0.91, None]
    assert bars["text"] == ["1.30x one training run", "diverged"]
    report = {"predictions": [{"figure": {"method": samples.TRUSTED, "cosine": 0.4, "cost": 1.3}}]}
    (bars,) = figures.fidelity({"report": report, "choices": []})["data"]
    assert bars["x"] == [0.4]
    assert "exact" in figures.fidelity({})["layout"]["annotations"][0]["text"]


def test_the_figures_of_an_online_job_count_windows() -> None:
    history = [record(n, seconds={"total": 1.0}) for n in range(2)]
    drawn = figures.draw("seconds", Material(history, unit="window"))
    assert drawn["layout"]["title"]["text"] == "Time per window"
    assert drawn["layout"]["xaxis"]["title"]["text"] == "window"
    groups = {"0.weight": 1.0, "1.weight": 1.0}
    history = [record(0, hyperparameters={"l2": summary(1, 2, 3, 4, 5, groups=groups)})]
    (trace,) = figures.draw("layers", Material(history, unit="window"))["data"]
    assert trace["hovertemplate"].startswith("window %{x}")


def test_metrics_of_some_windows_alone_are_lines_without_gaps() -> None:
    history = [record(n, metrics={"test_error": 0.1 * n} if n % 3 == 0 else {}) for n in range(7)]
    assert lines(figures.losses(history))["test error"] == ([1, 4, 7], [0.0, 0.3, 0.6])


def test_a_wide_band_does_not_hide_the_lines() -> None:
    """An interval of two meta-iterations can be a hundred times as wide as the curve is high."""

    def level(n: int) -> Interval:
        half = 5.0 if n == 0 else 0.01
        return Interval(mean=0.1 + 0.01 * n, low=0.1 - half, high=0.1 + half)

    history = [
        record(
            n, metrics={"label_noise_auc": 0.1 + 0.01 * n}, smoothed={"label_noise_auc": level(n)}
        )
        for n in range(6)
    ]
    axis = figures.losses(history)["layout"]["yaxis2"]
    assert axis["title"] == {"text": "label noise<br>auc"}
    low, high = axis["range"]
    assert 0.08 < low < 0.1
    assert 0.15 < high < 0.17


def test_entries_are_named_by_step_and_place() -> None:
    def named(kind: str, shape: list[int], *groups: tuple[str, int, int]) -> HyperparameterInfo:
        return HyperparameterInfo(
            name=kind,
            kind=kind,
            shape=shape,
            transform="identity",
            groups=[HyperparameterGroup(label=label, start=s, stop=e) for label, s, e in groups],
        )

    by_step = named("momentum", [6], ("steps 0 to 2", 0, 3), ("steps 3 to 5", 3, 6))
    by_layer = named("learning_rate", [2, 3], ("0.weight", 0, 3), ("0.bias", 3, 6))
    each_layer = named("learning_rate", [2], ("0.weight", 0, 1), ("0.bias", 1, 2))
    for info, index, name in (
        (by_step, 4, "momentum, step 4"),
        (by_layer, 4, "learning_rate, 0.bias, step 1"),
        (each_layer, 1, "learning_rate, 0.bias"),
        (INFOS[0], 5, "l2, 1.weight[1]"),
        (named("tensor", [4, 3]), 7, "tensor[2, 1]"),
        (named("sample_weight", [9]), 7, "sample_weight[7]"),
    ):
        assert learned_values.entry_label(info, index) == name
