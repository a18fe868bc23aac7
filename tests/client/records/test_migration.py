"""States and choices of earlier releases are read in today's names."""

import copy

from drmad_client.records.migration import migrate_choice, migrate_method, migrate_scalars
from tests.client.records.version_1 import (
    CHOICE_1,
    CHOICE_2,
    SCALARS_1,
    SCALARS_2,
    SCALARS_3,
    SCALARS_4,
    STORED,
)


def test_a_state_of_an_earlier_version_becomes_one_of_version_4() -> None:
    for scalars in (SCALARS_1, SCALARS_2, SCALARS_3):
        before = copy.deepcopy(scalars)
        assert migrate_scalars(scalars) == SCALARS_4
        assert before == scalars, "the argument must stay as it is"


def test_a_state_without_a_choice_is_migrated() -> None:
    assert migrate_scalars(SCALARS_1 | {"choice": None}) == SCALARS_4 | {"choice": None}


def test_a_choice_is_renamed_with_the_methods_that_it_names() -> None:
    assert migrate_choice(CHOICE_1) == CHOICE_2


def test_the_current_form_stays_as_it_is() -> None:
    assert migrate_scalars(SCALARS_4) == SCALARS_4
    assert migrate_choice(CHOICE_2) == CHOICE_2


def test_only_the_shortcut_has_renamed_settings() -> None:
    implicit = {"method": "implicit", "tolerance": 0.01}
    assert migrate_method(implicit) == implicit
    assert migrate_method(STORED) == STORED


def test_an_unknown_version_is_left_to_the_engine() -> None:
    assert migrate_scalars({"version": 99, "retreats": 1}) == {"version": 99, "retreats": 1}
