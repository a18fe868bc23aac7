"""The data sets: the built-in ones, those of OpenML, and the user's own."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from drmad_client.spec import bounds
from drmad_client.spec.data.data_set import UPLOAD, DataSet
from drmad_client.spec.data.tables import TableData

_Train = Annotated[int, bounds.Data.train]
_Valid = Annotated[int, bounds.Data.valid]
_Test = Annotated[int, bounds.Data.test]


class ExampleData(DataSet):
    """Base of the data sets with a number of examples for each part."""

    train: _Train = Field(description="Number of training examples.")
    valid: _Valid = Field(description="Number of validation examples.")
    test: _Test = Field(default=0, description="Number of test examples.")
    label_noise: Annotated[float, bounds.Data.label_noise] = Field(
        default=0.0,
        description="Share of the training labels replaced by a class drawn at random, in [0, 1); "
        "with ten classes a tenth of the replaced labels is correct by chance.",
    )
    drop_noisy: bool = Field(
        default=False,
        description="Whether training uses the correctly labelled examples alone, as a reference.",
    )
    seed: Annotated[int, bounds.Data.seed] = Field(
        default=0, description="Seed of the split and of the replaced labels."
    )

    @property
    def parts(self) -> tuple[int, int, int] | None:
        return self.train, self.valid, self.test


class DigitsData(ExampleData):
    """1,797 handwritten digits of 8 x 8 pixels (UCI), bundled with scikit-learn."""

    examples: ClassVar[int | None] = 1797
    classes: ClassVar[int | None] = 10
    input_shape: ClassVar[tuple[int, ...] | None] = (64,)

    name: Literal["digits"] = "digits"
    train: _Train = Field(default=1000, description="Number of training examples.")
    valid: _Valid = Field(default=300, description="Number of validation examples.")
    test: _Test = Field(default=497, description="Number of test examples.")


class _IdxData(ExampleData):
    examples: ClassVar[int | None] = 70_000
    classes: ClassVar[int | None] = 10
    input_shape: ClassVar[tuple[int, ...] | None] = (784,)

    train: _Train = Field(default=50_000, description="Number of training examples.")
    valid: _Valid = Field(default=10_000, description="Number of validation examples.")
    test: _Test = Field(default=10_000, description="Number of test examples.")
    folder: str | None = Field(
        default=None,
        max_length=4096,
        description="Folder on the workers that holds the IDX files, below a data root that the "
        "operator allows; null searches every data root.",
    )


class MnistData(_IdxData):
    """MNIST's handwritten digits, 28 x 28 pixels, from IDX files on the workers or from OpenML."""

    name: Literal["mnist"] = "mnist"


class FashionMnistData(_IdxData):
    """Zalando's images of clothes, 28 x 28 pixels, from IDX files on the workers or OpenML."""

    name: Literal["fashion_mnist"] = "fashion_mnist"


class Cifar10Data(ExampleData):
    """Colour photographs of 10 classes of objects, 3 x 32 x 32 values each, from OpenML."""

    examples: ClassVar[int | None] = 60_000
    classes: ClassVar[int | None] = 10
    input_shape: ClassVar[tuple[int, ...] | None] = (3072,)

    name: Literal["cifar10"] = "cifar10"
    train: _Train = Field(default=40_000, description="Number of training examples.")
    valid: _Valid = Field(default=10_000, description="Number of validation examples.")
    test: _Test = Field(default=10_000, description="Number of test examples.")


class _Table(ExampleData):
    standardize: bool = Field(
        default=True,
        description="Whether every input is shifted and scaled to mean 0 and standard deviation 1 "
        "over the training examples.",
    )


class BreastCancerData(_Table):
    """569 tumours by 30 measures, benign or malignant (UCI), bundled with scikit-learn."""

    examples: ClassVar[int | None] = 569
    classes: ClassVar[int | None] = 2
    input_shape: ClassVar[tuple[int, ...] | None] = (30,)

    name: Literal["breast_cancer"] = "breast_cancer"
    train: _Train = Field(default=300, description="Number of training examples.")
    valid: _Valid = Field(default=119, description="Number of validation examples.")
    test: _Test = Field(default=150, description="Number of test examples.")


class WineData(_Table):
    """178 wines of three makers by 13 measures (UCI), bundled with scikit-learn."""

    examples: ClassVar[int | None] = 178
    classes: ClassVar[int | None] = 3
    input_shape: ClassVar[tuple[int, ...] | None] = (13,)

    name: Literal["wine"] = "wine"
    train: _Train = Field(default=90, description="Number of training examples.")
    valid: _Valid = Field(default=44, description="Number of validation examples.")
    test: _Test = Field(default=44, description="Number of test examples.")


class IrisData(_Table):
    """150 irises of three species by 4 measures (Fisher), bundled with scikit-learn."""

    examples: ClassVar[int | None] = 150
    classes: ClassVar[int | None] = 3
    input_shape: ClassVar[tuple[int, ...] | None] = (4,)

    name: Literal["iris"] = "iris"
    train: _Train = Field(default=80, description="Number of training examples.")
    valid: _Valid = Field(default=35, description="Number of validation examples.")
    test: _Test = Field(default=35, description="Number of test examples.")


class OpenmlData(_Table):
    """A classification data set of OpenML by its name; categories become numbers."""

    name: Literal["openml"] = "openml"
    dataset: str = Field(
        pattern=r"^[A-Za-z0-9._-]{1,128}$",
        description="Name of the data set at OpenML, such as credit-g.",
    )
    version: Annotated[int, bounds.OPENML_VERSION] = Field(
        default=1, description="Version of the data set at OpenML."
    )


class _ArraysData(ExampleData):
    standardize: bool = Field(
        default=False,
        description="Whether every input is shifted and scaled to mean 0 and standard deviation 1 "
        "over the training examples.",
    )
    task: Literal["classification", "regression"] = Field(
        default="classification",
        description="What the targets are: classes, or numbers of shape (examples,) or (examples, "
        "targets).",
    )

    def has_column(self, name: str) -> bool:
        """Only a worker knows the arrays of the file."""
        return True

    @model_validator(mode="after")
    def _only_classes_are_replaced(self) -> Self:
        if self.task == "regression" and (self.label_noise or self.drop_noisy):
            raise PydanticCustomError(
                "noise_without_classes",
                "label_noise replaces classes: leave it out with task: regression",
            )
        return self


class UploadData(_ArraysData):
    """Your own data, uploaded: an npz or safetensors file with `inputs` and `targets`."""

    name: Literal["upload"] = "upload"
    data: str = Field(
        pattern=UPLOAD, description="Name of the upload, as PUT /v1/data/{sha256} returns it."
    )


class FileData(_ArraysData):
    """An npz or safetensors file with `inputs` and `targets` on the workers, below a data root."""

    name: Literal["file"] = "file"
    path: str = Field(
        min_length=1,
        max_length=4096,
        description="Path of the file below a data root that the operator allows, relative to "
        "that root.",
    )


DataSpec = Annotated[
    DigitsData
    | MnistData
    | FashionMnistData
    | Cifar10Data
    | BreastCancerData
    | WineData
    | IrisData
    | OpenmlData
    | UploadData
    | FileData
    | TableData,
    Field(discriminator="name"),
]
