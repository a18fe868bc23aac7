"""Settings of the outer loop out of range."""

import pytest

from drmad_workers import MetaConfig, ProblemError


@pytest.mark.parametrize(
    "settings",
    [{"optimizer": "adamw"}, {"learning_rate": 0.0}, {"iterations": -1}, {"patience": 0}],
)
def test_settings_out_of_range_are_refused_by_name(settings: dict[str, object]) -> None:
    with pytest.raises(ProblemError) as error:
        MetaConfig(**settings)  # type: ignore[arg-type]
    assert error.value.field == f"meta.{next(iter(settings))}"
