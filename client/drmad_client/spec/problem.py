"""The problem: a built-in model and data set, or the user's own code."""

from __future__ import annotations

import json
from math import prod
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Discriminator, Field, Tag, field_validator
from pydantic_core import PydanticCustomError

from drmad_client.spec.base import Spec
from drmad_client.spec.data_set import UPLOAD
from drmad_client.spec.data_sets import DataSpec
from drmad_client.spec.models import MlpModel, ModelSpec
from drmad_client.spec.sizes import ProblemSizes

# A name, extras and versions: no address, no path, no option of pip.
_REQUIREMENT = (
    r"^[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?(\[[A-Za-z0-9._, -]+\])?"
    r"( *(===|[<>=!~]=|[<>]) *[A-Za-z0-9.*+!_-]+( *, *(===|[<>=!~]=|[<>]) *[A-Za-z0-9.*+!_-]+)*)?$"
)


class CatalogProblem(Spec):
    """A built-in model on a built-in data set."""

    kind: ClassVar[Literal["catalog"]] = "catalog"

    model: ModelSpec = Field(default=MlpModel(), description="Model to train.")
    data: DataSpec = Field(description="Data set, and the sizes of its parts.")

    def sizes(self, steps: int) -> ProblemSizes:
        """The sizes, as far as the spec determines them; `steps` are the inner steps."""
        data, inputs = self.data, self.data.input_shape
        matrices = None
        if inputs is not None and data.classes is not None:
            matrices = self.model.matrices(inputs, data.classes)
        return ProblemSizes(
            steps,
            train=None if data.parts is None else data.parts[0],
            inputs=None if inputs is None else prod(inputs),
            classes=data.classes,
            matrices=matrices,
            tensors=None if matrices is None else 2 * len(matrices),  # each has a bias
        )


class CodeProblem(Spec):
    """The user's own problem: a function of their code that returns a drmad_workers Problem."""

    kind: ClassVar[Literal["code"]] = "code"

    entrypoint: str = Field(
        pattern=r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*$",
        max_length=256,
        description="Module and function that build the problem, such as my_problem:build.",
    )
    options: dict[str, Any] = Field(
        default={}, max_length=256, description="Keyword arguments of that function."
    )
    code: str = Field(
        pattern=r"^sha256:[0-9a-f]{64}$",
        description="Name of the uploaded archive of the module, as PUT /v1/code/{sha256} returns "
        "it.",
    )
    requirements: list[Annotated[str, Field(pattern=_REQUIREMENT, max_length=256)]] = Field(
        default=[],
        max_length=32,
        description="PyPI packages that the code needs beyond those of the workers, such as "
        "einops==0.8.1; the operator must allow them.",
    )
    data: str | None = Field(
        default=None,
        pattern=UPLOAD,
        description="Name of an uploaded data set, whose tensors the function receives by name as "
        "`data`; null passes none.",
    )

    def sizes(self, steps: int) -> ProblemSizes:
        """The steps alone, because the data and the model depend on the code."""
        return ProblemSizes(steps)

    @field_validator("options")
    @classmethod
    def _are_json(cls, options: dict[str, Any]) -> dict[str, Any]:
        """Options are stored as JSON, which has no infinities and no lone surrogates."""
        try:
            json.dumps(options, allow_nan=False, ensure_ascii=False).encode()
        except (TypeError, ValueError, RecursionError) as error:
            reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
            message = "must be representable as JSON in UTF-8: {reason}"
            raise PydanticCustomError("misfit", message, {"reason": reason}) from error
        return options


def uploaded_data(problem: CatalogProblem | CodeProblem) -> tuple[str, tuple[str, ...]] | None:
    """The name of a problem's uploaded data set and the path of its field; None without one."""
    if problem.kind == "code":
        return (problem.data, ("problem", "data")) if problem.data else None
    data = problem.data.data if problem.data.name in ("upload", "table") else None
    return (data, ("problem", "data", "data")) if data else None


def _kind_of_problem(value: Any) -> str:
    has = value if isinstance(value, dict) else vars(value) if isinstance(value, Spec) else {}
    return "code" if {"entrypoint", "code", "options"} & has.keys() else "catalog"


ProblemSpec = Annotated[
    Annotated[CatalogProblem, Tag("catalog")] | Annotated[CodeProblem, Tag("code")],
    Discriminator(_kind_of_problem),
]
