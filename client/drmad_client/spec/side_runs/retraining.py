"""What a retraining trains: from scratch, with the hyperparameters that a job found."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from drmad_client.spec import bounds, defaults
from drmad_client.spec.base import Misfit, Spec, misfit_error


def rows_or_share(value: Any) -> Any:
    """ "10%" as the share 0.1, and "50" as a number; any other value as it is.

    Raises:
        PydanticCustomError: it is a text, and neither.
    """
    if not isinstance(value, str):
        return value
    number, percent, rest = value.strip().partition("%")
    try:
        found = float(number) / 100.0 if percent else float(number)
    except ValueError:
        found = -1.0
    if rest or not found > 0.0 or (percent and not found < 1.0):
        raise PydanticCustomError("rows", "must be a share such as 10% or a number of rows")
    return found


class RetrainSpec(Spec):
    """What is trained with the tuned hyperparameters, and with the untuned ones beside them."""

    seeds: Annotated[int, bounds.Retraining.seeds] = Field(
        default=defaults.Retraining.seeds,
        description="Draws of weights and minibatches, under each of which both recipes train.",
    )
    steps: Annotated[int, bounds.Training.steps] | None = Field(
        default=None,
        description="Inner steps of every training run; schedules and rates per step are stretched "
        "to them. null takes those of the job.",
    )
    with_validation: bool = Field(
        default=False,
        description="Train both recipes on the validation rows too, and measure on the test data "
        "alone. In the tuned recipe the validation rows have a weight of one.",
    )
    threshold: Annotated[float, bounds.Retraining.threshold] | None = Field(
        default=None,
        description="Leave out the rows whose tuned weight is below it; the others have the weight "
        "of the untuned recipe. null takes the weights as they are.",
    )
    drop_lowest: (
        Annotated[float, bounds.Retraining.drop_lowest, BeforeValidator(rows_or_share)] | None
    ) = Field(
        default=None,
        description="Likewise leave out the rows of lowest weight: a share of them below 1, also "
        'as in "10%", or a number of rows.',
    )

    @model_validator(mode="after")
    def _one_rule_for_rows(self) -> Self:
        for misfit in self._misfits():
            raise ValidationError.from_exception_data(type(self).__name__, [misfit_error(*misfit)])
        return self

    def _misfits(self) -> Iterator[Misfit]:
        dropped = self.drop_lowest
        if dropped is not None and dropped >= 1 and dropped != int(dropped):
            message = f"must be a share below 1 or a whole number of rows, got {dropped:g}"
            yield ("drop_lowest",), dropped, message
        if dropped is not None and self.threshold is not None:
            message = "says which rows are left out, as threshold does: give one of them"
            yield ("drop_lowest",), dropped, message

    @property
    def leaves_out(self) -> bool:
        """Whether the tuned recipe leaves rows out."""
        return self.threshold is not None or self.drop_lowest is not None


class RetrainingSpec(RetrainSpec):
    """What a retraining of a job asks for."""

    iteration: Literal["best", "last"] | Annotated[int, Field(ge=0, lt=2**31)] = Field(
        default="best",
        description="Meta-iteration with whose hyperparameters it trains; an attribution has none.",
    )
    query: str | None = Field(
        default=None,
        max_length=200,
        description="Query of an attribution by whose influence rows are left out; null takes the "
        "first one.",
    )


def retraining_misfits(
    asked: RetrainSpec, job: str, kinds: Collection[str], has_test: bool
) -> Iterator[Misfit]:
    """The fields of a retraining that do not fit its job.

    Args:
        asked: The retraining.
        job: The kind of the job: tuning or attribution.
        kinds: The kinds of its hyperparameters.
        has_test: False where the problem is known to have no test data.
    """
    rule = "drop_lowest" if asked.threshold is None else "threshold"
    if job == "attribution":
        if asked.threshold is not None:
            message = "is for tuned weights; of an attribution drop_lowest leaves rows out"
            yield ("threshold",), asked.threshold, message
        elif asked.drop_lowest is None:
            message = "must say how many rows are left out, as an attribution tunes nothing"
            yield ("drop_lowest",), None, message
    elif asked.leaves_out and "sample_weight" not in kinds:
        message = "leaves out rows by their tuned weight, and the job tunes no sample_weight"
        yield (rule,), getattr(asked, rule), message
    query = getattr(asked, "query", None)
    if query is not None and job != "attribution":
        message = "names a query of an attribution; leave it out for a tuning job"
        yield ("query",), query, message
    if not asked.with_validation:
        return
    if not has_test:
        message = "leaves only test data to measure on, and the problem has none"
        yield ("with_validation",), True, message
    if "training_data" in kinds:
        message = "has no effect where training_data tunes the training inputs themselves"
        yield ("with_validation",), True, message
