"""What is trained, on which data: the built-in problems, and the user's own."""

from __future__ import annotations

import json
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Discriminator, Field, Tag, field_validator
from pydantic_core import PydanticCustomError

from drmad_client.spec.base import Spec
from drmad_client.spec.data_sets import UPLOAD, DataSpec

# A name, extras and versions: no address, no path, no option of pip.
_REQUIREMENT = (
    r"^[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?(\[[A-Za-z0-9._, -]+\])?"
    r"( *(===|[<>=!~]=|[<>]) *[A-Za-z0-9.*+!_-]+( *, *(===|[<>=!~]=|[<>]) *[A-Za-z0-9.*+!_-]+)*)?$"
)


class MlpModel(Spec):
    """A fully connected network with a linear output layer."""

    name: Literal["mlp"] = "mlp"
    hidden: Annotated[list[Annotated[int, Field(ge=1, le=65_536)]], Field(max_length=32)] = Field(
        default=[50], description="Units of each hidden layer, from the input to the output."
    )
    activation: Literal["tanh", "relu"] = Field(
        default="tanh", description="Nonlinearity after each hidden layer."
    )


class CnnModel(Spec):
    """Convolutions of 3 x 3, each followed by pooling over 2 x 2, and a linear output layer."""

    name: Literal["cnn"] = "cnn"
    channels: Annotated[list[Annotated[int, Field(ge=1, le=4096)]], Field(max_length=8)] = Field(
        default=[8, 16],
        min_length=1,
        description="Of each convolution; pictures must be twice as large for each.",
    )
    activation: Literal["tanh", "relu"] = Field(
        default="relu", description="Nonlinearity after each convolution."
    )
    batch_norm: bool = Field(
        default=False, description="Normalise the batch before each nonlinearity."
    )


ModelSpec = Annotated[MlpModel | CnnModel, Field(discriminator="name")]


class CatalogProblem(Spec):
    """A built-in model on a built-in data set."""

    kind: ClassVar[Literal["catalog"]] = "catalog"

    model: ModelSpec = Field(default=MlpModel(), description="The model to train.")
    data: DataSpec = Field(description="The data set, and how it is split.")


class CodeProblem(Spec):
    """The user's own problem: a function of their code that returns a drmad_workers Problem."""

    kind: ClassVar[Literal["code"]] = "code"

    entrypoint: str = Field(
        pattern=r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*$",
        max_length=256,
        description="Module and function, as in my_problem:build.",
    )
    options: dict[str, Any] = Field(
        default={}, max_length=256, description="Keyword arguments of the function."
    )
    code: str = Field(
        pattern=r"^sha256:[0-9a-f]{64}$",
        description="The uploaded archive that holds the module: PUT /v1/code/{sha256}.",
    )
    requirements: list[Annotated[str, Field(pattern=_REQUIREMENT, max_length=256)]] = Field(
        default=[],
        max_length=32,
        description="Packages of PyPI that the code needs beside what workers have, as in "
        "einops==0.8.1; where the operator allows it.",
    )
    data: str | None = Field(
        default=None,
        pattern=UPLOAD,
        description="An uploaded data set, handed to the function as `data`: tensors by name.",
    )

    @field_validator("options")
    @classmethod
    def _are_json(cls, options: dict[str, Any]) -> dict[str, Any]:
        """They are stored and sent as JSON, which has no infinities and no half characters."""
        try:
            json.dumps(options, allow_nan=False, ensure_ascii=False).encode()
        except (TypeError, ValueError, RecursionError) as error:
            reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
            message = "must hold what JSON in UTF-8 can: {reason}"
            raise PydanticCustomError("misfit", message, {"reason": reason}) from error
        return options


def uploaded_data(problem: CatalogProblem | CodeProblem) -> tuple[str, tuple[str, ...]] | None:
    """The uploaded data set that a problem names, and where; None when it names none."""
    if problem.kind == "code":
        return (problem.data, ("problem", "data")) if problem.data else None
    if problem.data.name == "upload":
        return problem.data.data, ("problem", "data", "data")
    return None


def _kind_of_problem(value: Any) -> str:
    has = value if isinstance(value, dict) else vars(value) if isinstance(value, Spec) else {}
    return "code" if {"entrypoint", "code", "options"} & has.keys() else "catalog"


ProblemSpec = Annotated[
    Annotated[CatalogProblem, Tag("catalog")] | Annotated[CodeProblem, Tag("code")],
    Discriminator(_kind_of_problem),
]
