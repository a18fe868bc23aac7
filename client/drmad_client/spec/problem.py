"""The problem: a built-in model and data set, or the user's own code."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from math import prod
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Discriminator, Field, Tag, field_validator
from pydantic_core import PydanticCustomError

from drmad_client.spec.base import Misfit, Spec
from drmad_client.spec.data.data_set import UPLOAD
from drmad_client.spec.data.data_sets import DataSpec
from drmad_client.spec.data.sizes import ProblemSizes
from drmad_client.spec.inner.models import MlpModel, ModelSpec
from drmad_client.spec.text.plain_values import with_numbers


def _upload_or_path(value: str) -> str:
    if value.startswith("sha256:") and re.fullmatch(UPLOAD, value) is None:
        message = "must be sha256: and 64 hexadecimal digits, or a path below a data root"
        raise PydanticCustomError("unfit", message)
    return value


Weights = Annotated[str, Field(min_length=1, max_length=4096), AfterValidator(_upload_or_path)]
"""The name of an upload, or a path."""

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
    weights: Weights | None = Field(
        default=None,
        description="File of weights that every training run starts from, a state dict in "
        "safetensors: the name of an upload, sha256:..., or a path below a data root of the "
        "workers. null draws new weights for each training run.",
    )

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
    weights: Weights | None = Field(
        default=None,
        description="File of weights that every training run starts from, a state dict in "
        "safetensors: the name of an upload, sha256:..., or a path below a data root of the "
        "workers. It is loaded into the model that the function builds. null takes the weights as "
        "the function built them.",
    )
    initialize: Literal["reset"] | None = Field(
        default=None,
        description="`reset` draws new weights for each training run by every module's "
        "`reset_parameters`, where the Problem of the code states no `initialize`. Jobs of "
        "releases in which this was the default have it.",
    )

    def misfits(self) -> Iterator[Misfit]:
        """The rules between fields that the problem breaks."""
        if self.data and "data" in self.options:
            message = "is taken by problem.data; give the option another name"
            yield ("problem", "options", "data"), self.options["data"], message
        if self.weights is not None and self.initialize is not None:
            message = "would draw the weights of problem.weights again; leave out one of them"
            yield ("problem", "initialize"), self.initialize, message

    def sizes(self, steps: int) -> ProblemSizes:
        """The steps alone, because the data and the model depend on the code."""
        return ProblemSizes(steps)

    @field_validator("options")
    @classmethod
    def _are_json(cls, options: dict[str, Any]) -> dict[str, Any]:
        """Options are stored as JSON, which has no infinities and no lone surrogates."""
        options = with_numbers(options)
        try:
            json.dumps(options, allow_nan=False, ensure_ascii=False).encode()
        except (TypeError, ValueError, RecursionError) as error:
            reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
            message = "must be representable as JSON in UTF-8: {reason}"
            raise PydanticCustomError("unfit", message, {"reason": reason}) from error
        return options


def uploaded_files(problem: CatalogProblem | CodeProblem) -> dict[tuple[str, ...], str]:
    """The names of a problem's uploaded data and weights, sha256:..., by the path of the field."""
    files: dict[tuple[str, ...], str] = {}
    if problem.kind == "code" and problem.data:
        files["problem", "data"] = problem.data
    if problem.kind == "catalog" and problem.data.name in ("upload", "table") and problem.data.data:
        files["problem", "data", "data"] = problem.data.data
    if problem.weights is not None and problem.weights.startswith("sha256:"):
        files["problem", "weights"] = problem.weights
    return files


def _kind_of_problem(value: Any) -> str:
    has = value if isinstance(value, dict) else vars(value) if isinstance(value, Spec) else {}
    return "code" if {"entrypoint", "code", "options"} & has.keys() else "catalog"


ProblemSpec = Annotated[
    Annotated[CatalogProblem, Tag("catalog")] | Annotated[CodeProblem, Tag("code")],
    Discriminator(_kind_of_problem),
]
