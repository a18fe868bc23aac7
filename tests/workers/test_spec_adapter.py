"""What the client knows of the engine: every field, every size, and what each method refuses."""

from collections.abc import Callable, Iterator
from dataclasses import fields
from functools import partial
from itertools import product
from typing import Any, get_args

import pytest
import torch
from annotated_types import Len
from pydantic import TypeAdapter, ValidationError

from drmad_client.records.field_errors import field_errors
from drmad_client.spec import bounds, capabilities
from drmad_client.spec.base import Spec
from drmad_client.spec.bounds import Bounds
from drmad_client.spec.hyperparameters import HyperparameterSpec
from drmad_client.spec.inner.optimizers import OptimizerName
from drmad_client.spec.inner.training import TrainingSpec
from drmad_client.spec.job import JobSpec
from drmad_client.spec.methods import HypergradientSpec
from drmad_client.spec.outer.meta import MetaSpec
from drmad_client.spec.problem import CatalogProblem
from drmad_workers import MetaConfig, ProblemError, TrainingConfig, spec_adapter
from drmad_workers.catalog import Places, build_problem, data, models, sources
from drmad_workers.catalog.sources import Raw
from drmad_workers.data.examples import Examples
from drmad_workers.hypergradients.method import require_derivatives
from drmad_workers.hyperparameters.base import BoundHyperparameter, Setting, slots_of
from drmad_workers.hyperparameters.binding import bind_all
from drmad_workers.meta import aggregation
from drmad_workers.training.optimizers.registry import optimizer_class


def names(spec: type[Spec], *left_out: str) -> set[str]:
    return set(spec.model_fields) - set(left_out)


def settings_of(engine: Any) -> set[str]:
    return {field.name for field in fields(engine)}


def checked(name: str, **options: Any) -> None:
    """A method of the engine, and its check."""
    method = spec_adapter.engine_class("hypergradients", capabilities.METHODS[name].engine)
    method(**options).check(TrainingConfig())


def split(**options: Any) -> None:
    """Examples of ten classes, split under these options."""
    raw = Raw(torch.zeros(1797, 1), torch.arange(1797) % 10, classes=10)
    data.split_data("digits", raw, data.DATA_SETS["digits"][1] | options)


@pytest.mark.parametrize("spec", capabilities.METHODS.values(), ids=lambda spec: spec.__name__)
def test_every_option_of_a_method_reaches_the_engine(spec: type[Spec]) -> None:
    stated = TypeAdapter(HypergradientSpec).validate_python(
        {"method": spec.model_fields["method"].default}
    )
    made = spec_adapter.method(stated)
    assert names(spec, "method") == settings_of(made)
    assert stated.model_dump(exclude={"method"}) == {
        field.name: getattr(made, field.name) for field in fields(made)
    }


def test_every_row_of_the_table_has_its_counterpart_in_the_engine() -> None:
    for name, method in capabilities.METHODS.items():
        assert spec_adapter.engine_class("hypergradients", method.engine).name == name  # type: ignore[attr-defined]
    for kind in capabilities.HYPERPARAMETERS.values():
        spec_adapter.engine_class("hyperparameters", kind.engine)
    for name, traits in capabilities.OPTIMIZERS.items():
        assert optimizer_class(name).__name__ == traits.engine.partition(":")[2]
        config = TrainingConfig(optimizer=name)  # type: ignore[arg-type]
        assert name == "custom" or config.memory_rows >= 1
    assert set(get_args(OptimizerName)) == set(capabilities.OPTIMIZERS)
    assert set(capabilities.AGGREGATIONS) == set(aggregation.AGGREGATIONS)
    assert set(capabilities.MODELS) == set(models.MODELS)
    assert set(capabilities.DATA_SETS) == set(data.DATA_SETS)


@pytest.mark.parametrize(
    "spec", capabilities.HYPERPARAMETERS.values(), ids=lambda spec: spec.__name__
)
def test_every_option_of_a_kind_reaches_the_engine(spec: type[Spec]) -> None:
    kind = spec.model_fields["kind"].default
    stated = TypeAdapter(HyperparameterSpec).validate_python({"kind": kind, "name": "own"})
    made = spec_adapter.kind(stated)
    assert names(spec, "kind") == settings_of(made)
    for name, value in stated.model_dump(exclude={"kind"}).items():
        assert getattr(made, name) == value


def test_every_option_of_training_and_of_meta_reaches_the_engine() -> None:
    assert names(TrainingSpec) == settings_of(TrainingConfig) - {"rule"}  # a problem's own
    assert spec_adapter.training_config(TrainingSpec()) == TrainingConfig()
    of_jobs = {"checkpoint_every"}
    assert names(MetaSpec) - of_jobs == settings_of(MetaConfig)
    assert MetaConfig(**MetaSpec().model_dump(exclude=of_jobs)) == MetaConfig()


REQUIRED: dict[str, dict[str, Any]] = {"table": {"factors": (1.0,)}}


@pytest.mark.parametrize("name", capabilities.LEARNING_RATE_SCHEDULES)
def test_every_option_of_a_schedule_reaches_the_engine(name: str) -> None:
    spec = capabilities.LEARNING_RATE_SCHEDULES[name]
    stated = spec(**REQUIRED.get(name, {}))
    made = spec_adapter.schedule(stated)
    assert names(spec, "name") == settings_of(made)
    assert stated.model_dump(exclude={"name"}) == {
        field.name: getattr(made, field.name) for field in fields(made)
    }


SECTIONS: list[tuple[type, type[Spec], Callable[..., object]]] = [
    (bounds.Training, TrainingSpec, TrainingConfig),
    (bounds.Meta, MetaSpec, MetaConfig),
    (bounds.Online, MetaSpec, MetaConfig),
    (bounds.Auto, capabilities.METHODS["auto"], partial(checked, "auto")),
    (bounds.Shortcut, capabilities.METHODS["shortcut"], partial(checked, "shortcut")),
    (bounds.Implicit, capabilities.METHODS["implicit"], partial(checked, "implicit")),
    (bounds.Data, capabilities.DATA_SETS["digits"], split),
]
NUMBERS = [
    pytest.param(allowed, name, spec, engine, id=f"{table.__name__}.{name}")
    for table, spec, engine in SECTIONS
    for name, allowed in vars(table).items()
    if isinstance(allowed, Bounds)
]


@pytest.mark.parametrize(("allowed", "name", "spec", "engine"), NUMBERS)
def test_spec_and_engine_enforce_every_bound(
    allowed: Bounds, name: str, spec: type[Spec], engine: Callable[..., object]
) -> None:
    is_whole = "int" in str(spec.model_fields[name].annotation)
    beyond = 1 if is_whole else 1e-9
    inside = [bound for bound in (allowed.ge, allowed.le) if bound is not None]
    outside = [bound - beyond for bound in (allowed.ge,) if bound is not None]
    outside += [bound for bound in (allowed.gt, allowed.lt) if bound is not None]
    outside += [bound + beyond for bound in (allowed.le,) if bound is not None]
    needed: dict[str, dict[str, Any]] = {
        "averaging_window": {"interpolation_nodes": 5},
        "step_size": {"solver": "neumann"},
    }
    others = needed.get(name, {})
    assert outside
    for number in inside:
        spec(**others, **{name: number})
        engine(**others, **{name: number})
    for number in outside:
        with pytest.raises(ValidationError, match="1 validation error"):
            spec(**others, **{name: number})
        with pytest.raises(ProblemError, match=f"^{name} must be {allowed}, got ") as refused:
            engine(**others, **{name: number})
        assert (refused.value.field or "").endswith(f".{name}")
    if allowed.limit is not None:
        spec(**others, **{name: allowed.limit})
        engine(**others, **{name: 2 * allowed.limit})
        with pytest.raises(ValidationError, match="less than or equal"):
            spec(**others, **{name: 2 * allowed.limit})


def test_every_bounded_number_of_a_section_stands_in_the_table() -> None:
    for table, spec, _ in SECTIONS:
        bounded = {
            name
            for name, field in spec.model_json_schema()["properties"].items()
            for kind in field.get("anyOf", [field])
            if {"minimum", "exclusiveMinimum"} & set(kind)
        }
        tables = [each for each, other, _ in SECTIONS if other is spec and each is not table]
        stated = {
            name
            for each in (table, *tables)
            for name, allowed in vars(each).items()
            if isinstance(allowed, Bounds)
        }
        # A rule of its own bounds the horizon by the steps, and jobs alone have checkpoints.
        assert bounded - {"horizon", "checkpoint_every"} == stated


@pytest.mark.parametrize("betas", [(-0.1, 0.9), (0.9, 1.0), (0.9, float("nan"))])
def test_spec_and_engine_enforce_the_bounds_of_the_betas(betas: tuple[float, float]) -> None:
    with pytest.raises(ValidationError, match=r"betas\.[01]"):
        TrainingSpec(betas=betas)
    with pytest.raises(ProblemError, match="two numbers, each at least 0 and below 1, got"):
        TrainingConfig(betas=betas)


@pytest.mark.parametrize(
    ("name", "field", "allowed", "length"),
    [
        ("mlp", "hidden", bounds.Mlp.hidden, bounds.Mlp.hidden_layers),
        ("cnn", "channels", bounds.Cnn.channels, bounds.Cnn.convolutions),
    ],
)
def test_spec_and_engine_enforce_the_bounds_of_a_models_layers(
    name: str, field: str, allowed: Bounds, length: Len
) -> None:
    spec = capabilities.MODELS[name]
    least, most = int(allowed.ge or 0), int(allowed.limit or 0)

    def built(sizes: list[int]) -> None:
        models.build_model(name, {field: sizes}, (4096,), 10, image=(1, 64, 64))

    for sizes in ([least] * length.min_length, [least]):
        spec(**{field: sizes})
        built(sizes)
    wrong_for_both = [[least - 1], *([[]] if length.min_length else [])]
    for sizes in wrong_for_both:
        with pytest.raises(ProblemError, match=f"each {allowed}, got") as refused:
            built(sizes)
        assert refused.value.field == f"problem.model.{field}"
    for sizes in [*wrong_for_both, [most + 1], [least] * (int(length.max_length or 0) + 1)]:
        with pytest.raises(ValidationError, match="1 validation error"):
            spec(**{field: sizes})


@pytest.mark.parametrize("version", [0, -1])
def test_spec_and_engine_enforce_the_bound_of_a_version_of_openml(version: int) -> None:
    options: dict[str, Any] = {"dataset": "tiny", "version": version}
    with pytest.raises(ValidationError, match="greater than or equal to 1"):
        capabilities.DATA_SETS["openml"](**{"train": 1, "valid": 1, **options})
    with pytest.raises(ProblemError, match=f"version must be at least 1, got {version}"):
        sources.openml(options, Places())


METHOD_OPTIONS: list[dict[str, Any]] = [
    {"method": "auto"},
    {"method": "shortcut"},
    {"method": "shortcut", "horizon": 5},
    {"method": "shortcut", "horizon": 21},
    {"method": "shortcut", "max_stride": 5},
    {"method": "shortcut", "max_stride": 1, "max_adjoint_change": 0.3},
    {"method": "shortcut", "minibatch_subsampling": 2},
    {"method": "shortcut", "horizon": 5, "minibatch_subsampling": 2},
    {"method": "shortcut", "preset": "paper"},
    {"method": "shortcut", "preset": "paper_tenth"},
    {"method": "shortcut", "preset": "paper", "hvp": "finite_difference"},
    {"method": "shortcut", "curvature": "gauss_newton", "hvp": "finite_difference"},
    {"method": "replay"},
    {"method": "replay", "horizon": 20},
    {"method": "replay", "horizon": 19},
    {"method": "stored", "horizon": 1, "hvp": "finite_difference"},
    {"method": "reversible"},
    {"method": "one_step"},
    {"method": "implicit"},
    {"method": "implicit", "solver": "neumann"},
    {"method": "implicit", "solver": "neumann", "step_size": 0.1},
    {"method": "forward"},
    {"method": "forward", "hvp": "finite_difference"},
]
KIND_OPTIONS: list[dict[str, Any]] = [
    *({"kind": "l2", "per": per} for per in ("weight", "unit", "layer", "model")),
    *(
        {"kind": kind, "per": per}
        for kind in ("learning_rate", "momentum")
        for per in ("model", "layer", "step", "step_and_layer")
    ),
    *({"kind": "weight_decay", "per": per} for per in ("model", "layer")),
    {"kind": "weight_decay", "per": "group", "groups": ["*.bias", "0.*"]},
    {"kind": "l1", "per": "unit"},
    {"kind": "init_scale"},
    {"kind": "sample_weight"},
    {"kind": "training_data"},
    {"kind": "loss_weight"},
]
TRAININGS: list[dict[str, Any]] = [
    {"steps": 20, "batch_size": 10},
    {"steps": 1, "batch_size": 10},
    {"steps": 100, "batch_size": 10, "optimizer": "adam"},
    {"steps": 20, "batch_size": 10, "optimizer": "adamw", "weight_decay": 0.1},
]
PROBLEM: dict[str, Any] = {
    "model": {"name": "mlp", "hidden": [7, 5]},
    "data": {"name": "digits", "train": 300, "valid": 20, "test": 0},
}


@pytest.fixture(scope="module")
def bound() -> dict[tuple[int, int], BoundHyperparameter]:
    """Every kind under every training, as the engine binds it."""
    problem = build_problem(PROBLEM["model"], PROBLEM["data"])
    train = Examples(problem.train, "train", torch.device("cpu"), torch.float32)
    made = {}
    for (i, options), (j, stated) in product(enumerate(TRAININGS), enumerate(KIND_OPTIONS)):
        training = TrainingConfig(**options)
        kind = spec_adapter.kind(TypeAdapter(HyperparameterSpec).validate_python(stated))
        setting = Setting(
            problem,
            slots_of(problem.model),
            train,
            steps=training.steps,
            learning_rate=training.learning_rate,
            momentum=training.first_decay,
            dtype=torch.float32,
        )
        (made[i, j],) = bind_all([kind], setting).values()
    return made


def test_the_client_knows_how_many_entries_a_hyperparameter_has(
    bound: dict[tuple[int, int], BoundHyperparameter],
) -> None:
    for (i, j), hyperparameter in bound.items():
        kind = TypeAdapter(HyperparameterSpec).validate_python(KIND_OPTIONS[j])
        problem = CatalogProblem.model_validate(PROBLEM)
        count = kind.entries(problem.sizes(TRAININGS[i]["steps"]))
        assert count == hyperparameter.initial.numel(), KIND_OPTIONS[j]


@pytest.mark.parametrize("training", range(len(TRAININGS)))
@pytest.mark.parametrize(
    "method", METHOD_OPTIONS, ids=lambda options: "-".join(map(str, options.values()))
)
def test_client_and_engine_refuse_the_same(
    method: dict[str, Any],
    training: int,
    bound: dict[tuple[int, int], BoundHyperparameter],
) -> None:
    for number, kind in enumerate(KIND_OPTIONS):
        job = {
            "problem": PROBLEM,
            "hyperparameters": [kind],
            "training": TRAININGS[training],
            "hypergradient": method,
        }
        by_client = dict(refused_by_client(job))
        by_engine = refused_by_engine(method, training, bound[training, number])
        if by_engine is None:
            assert by_client == {}, job
        else:
            field = by_engine.field or ""
            if field.startswith("hyperparameters."):
                field = "hyperparameters[0].kind"
            assert field in by_client, job
            assert by_client[field] == str(by_engine) or "must be" in str(by_engine)


def refused_by_client(job: dict[str, Any]) -> Iterator[tuple[str, str]]:
    try:
        JobSpec.model_validate(job)
    except ValidationError as error:
        for line in field_errors(error.errors(), job):
            yield line.path, line.message


def refused_by_engine(
    options: dict[str, Any], training: int, hyperparameter: BoundHyperparameter
) -> ProblemError | None:
    rest = {name: value for name, value in options.items() if name != "method"}
    try:
        row = capabilities.METHODS[options["method"]]
        config = TrainingConfig(**TRAININGS[training])
        method = spec_adapter.engine_class("hypergradients", row.engine)(**rest)
        method.check(config)
        require_derivatives(method, [hyperparameter], config)
    except ProblemError as error:
        return error
    return None
