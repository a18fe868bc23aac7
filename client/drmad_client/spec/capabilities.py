"""The catalog of the service: kinds, methods, models, data sets and inner optimizers.

Each row is the class (or the traits) with the properties of one entry. Validation, catalog, form,
figures and engine read this table, and none of them needs torch to read it.
"""

from __future__ import annotations

from typing import Any, TypeVar, get_args

from drmad_client.spec.base import Spec
from drmad_client.spec.data.data_set import DataSet
from drmad_client.spec.data.data_sets import DataSpec
from drmad_client.spec.hyperparameters import Hyperparameter, HyperparameterSpec
from drmad_client.spec.inner.models import Model, ModelSpec
from drmad_client.spec.inner.optimizers import OPTIMIZERS as OPTIMIZERS
from drmad_client.spec.inner.schedules import LearningRateSchedule, ScheduleSpec
from drmad_client.spec.job import JobSpec
from drmad_client.spec.methods import HypergradientSpec, MethodSpec
from drmad_client.spec.outer.aggregations import AggregationName

RowT = TypeVar("RowT", bound=Spec)


def _rows(union: Any, discriminator: str, base: type[RowT]) -> dict[str, type[RowT]]:
    """The members of a discriminated union by name, in its order."""
    members: tuple[type[RowT], ...] = get_args(get_args(union)[0])
    assert all(issubclass(row, base) for row in members)
    return {row.model_fields[discriminator].default: row for row in members}


HYPERPARAMETERS = _rows(HyperparameterSpec, "kind", Hyperparameter)
METHODS = _rows(HypergradientSpec, "method", MethodSpec)
MODELS = _rows(ModelSpec, "name", Model)
DATA_SETS = _rows(DataSpec, "name", DataSet)
LEARNING_RATE_SCHEDULES = _rows(LearningRateSchedule, "name", ScheduleSpec)
PENALTIES = frozenset(kind for kind, row in HYPERPARAMETERS.items() if row.is_penalty)
SCHEDULES = frozenset(kind for kind, row in HYPERPARAMETERS.items() if row.is_schedule)
AGGREGATIONS: tuple[str, ...] = get_args(AggregationName)


def describe() -> dict[str, Any]:
    """All entries that a job may name, with their options, and the JSON schema of a job."""
    return {
        "models": [_entry(name, row, "name") for name, row in MODELS.items()],
        "data": [
            _entry(name, row, "name")
            | {
                "examples": row.examples,
                "input_shape": row.input_shape and list(row.input_shape),
                "classes": row.classes,
            }
            for name, row in DATA_SETS.items()
        ],
        "hyperparameters": [_entry(name, row, "kind") for name, row in HYPERPARAMETERS.items()],
        "methods": [_entry(name, row, "method") for name, row in METHODS.items()],
        "schema": JobSpec.model_json_schema(),
    }


def _entry(name: str, row: type[Spec], discriminator: str) -> dict[str, Any]:
    options = dict(row.model_json_schema()["properties"])
    options.pop(discriminator)
    return {"name": name, "description": row.__doc__, "options": options}
