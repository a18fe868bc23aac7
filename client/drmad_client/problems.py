"""What is trained, on which data: the built-in problems, and the user's own."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Discriminator, Field, Tag

from drmad_client.base import Spec


class MlpModel(Spec):
    """A fully connected network with a linear output layer."""

    name: Literal["mlp"] = "mlp"
    hidden: Annotated[list[Annotated[int, Field(ge=1, le=65_536)]], Field(max_length=32)] = Field(
        default=[50], description="Units of each hidden layer, from the input to the output."
    )
    activation: Literal["tanh", "relu"] = Field(
        default="tanh", description="Nonlinearity after each hidden layer."
    )


class _Data(Spec):
    label_noise: float = Field(
        default=0.0,
        ge=0.0,
        lt=1.0,
        description="Share of the training labels replaced by a class drawn at random, in [0, 1); "
        "with ten classes a tenth of the replaced ones stays right.",
    )
    drop_noisy: bool = Field(
        default=False,
        description="Train on the correctly labelled examples only: the yardstick of a cleaning.",
    )
    seed: int = Field(
        default=0, ge=0, lt=2**63, description="Seed of the split and of the replaced labels."
    )


class DigitsData(_Data):
    """1,797 handwritten digits of 8 x 8 pixels (UCI), bundled with scikit-learn."""

    examples: ClassVar[int] = 1797
    classes: ClassVar[int] = 10
    input_shape: ClassVar[tuple[int, ...]] = (64,)

    name: Literal["digits"] = "digits"
    train: int = Field(default=1000, ge=1, description="Training examples.")
    valid: int = Field(default=300, ge=1, description="Validation examples.")
    test: int = Field(default=497, ge=0, description="Test examples.")


class MnistData(_Data):
    """MNIST's handwritten digits, 28 x 28 pixels, from IDX files on the workers or from OpenML."""

    examples: ClassVar[int] = 70_000
    classes: ClassVar[int] = 10
    input_shape: ClassVar[tuple[int, ...]] = (784,)

    name: Literal["mnist"] = "mnist"
    train: int = Field(default=50_000, ge=1, description="Training examples.")
    valid: int = Field(default=10_000, ge=1, description="Validation examples.")
    test: int = Field(default=10_000, ge=0, description="Test examples.")
    folder: str | None = Field(
        default=None,
        max_length=4096,
        description="Folder on the workers that holds the IDX files, below a data root that the "
        "operator allows; null looks in every data root.",
    )


class CatalogProblem(Spec):
    """A built-in model on a built-in data set."""

    kind: ClassVar[Literal["catalog"]] = "catalog"

    model: MlpModel = Field(default=MlpModel(), description="The model to train.")
    data: Annotated[DigitsData | MnistData, Field(discriminator="name")] = Field(
        description="The data set, and how it is split."
    )


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


def _kind_of_problem(value: Any) -> str:
    has = value if isinstance(value, dict) else vars(value) if isinstance(value, Spec) else {}
    return "code" if {"entrypoint", "code", "options"} & has.keys() else "catalog"


ProblemSpec = Annotated[
    Annotated[CatalogProblem, Tag("catalog")] | Annotated[CodeProblem, Tag("code")],
    Discriminator(_kind_of_problem),
]
