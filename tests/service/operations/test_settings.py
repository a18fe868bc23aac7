"""One declaration of a setting serves the code, its flag, its variable and its description."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import typer
from pydantic import ValidationError
from typer.testing import CliRunner

from drmad_service import logs
from drmad_service.errors import ServiceStartError
from drmad_service.flags import filled, with_settings
from drmad_service.job_limits import JobLimits
from drmad_service.scheduling.notifications.webhooks import Webhooks
from drmad_service.settings import ApiSettings, SchedulerSettings, SupervisorSettings
from drmad_service.store import StoreSettings

CLASSES = (
    ApiSettings,
    SchedulerSettings,
    SupervisorSettings,
    StoreSettings,
    JobLimits,
    Webhooks,
)


def given(*arguments: str, **variables: str) -> SchedulerSettings:
    """The scheduler's settings from these flags and variables."""
    found: list[SchedulerSettings] = []
    app = typer.Typer()

    @app.command()
    @with_settings(SchedulerSettings, webhook=Webhooks)
    def schedule(**flags: Any) -> None:
        webhooks = filled(Webhooks, flags, "webhook")
        found.append(filled(SchedulerSettings, flags, redis_url="", webhooks=webhooks))

    done = CliRunner().invoke(app, [*arguments], env={"DRMAD_DATA_ROOTS": None, **variables})
    assert done.exit_code == 0, done.output
    return found[0]


def test_without_flags_and_variables_the_defaults_hold() -> None:
    assert given() == SchedulerSettings(redis_url="")


def test_flag_overrides_its_variable_and_the_variable_the_default() -> None:
    assert given(DRMAD_LEASE_S="3").lease_s == 3.0
    assert given("--lease-s", "4", DRMAD_LEASE_S="3").lease_s == 4.0


def test_repeated_flag_and_a_list_in_its_variable_are_the_same(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    flags = given("--data-root", str(one), "--data-root", str(two / ".." / "two"))
    assert flags.data_roots == given(DRMAD_DATA_ROOTS=f"{one}:{two}").data_roots == (one, two)


def test_prefixed_settings_have_flags_and_variables_of_their_own() -> None:
    settings = given("--webhook-host", "a.example", "--webhook-private", DRMAD_WEBHOOK_RETRY_S="7")
    assert settings.webhooks == Webhooks(hosts=("a.example",), private=True, retry_s=7.0)


def test_setting_whose_field_names_its_unit_keeps_its_flag() -> None:
    assert given("--replica-memory", "3").replica_memory_bytes == 3 << 20


def test_limit_of_a_setting_holds_in_code_as_on_the_command_line() -> None:
    with pytest.raises(ValidationError, match=r"greater than or equal to 0\.5"):
        SchedulerSettings(redis_url="", lease_s=0.1)


@pytest.mark.parametrize("owner", CLASSES)
def test_every_setting_is_described_by_sentences(owner: Any) -> None:
    settings = [f for f in owner.__pydantic_fields__.values() if f.json_schema_extra is not None]
    assert settings
    assert all(f.description[0].isupper() and f.description.endswith(".") for f in settings)


@pytest.mark.parametrize("owner", CLASSES)
def test_a_setting_in_seconds_or_bytes_says_so(owner: Any) -> None:
    for name, field in owner.__pydantic_fields__.items():
        for suffix, unit in (("_s", "seconds"), ("_bytes", "bytes"), ("_mib", "MiB")):
            if field.json_schema_extra is not None and name.endswith(suffix):
                assert unit in field.description or "per second" in field.description, name


def test_log_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DRMAD_LOG_FORMAT", "json")
    monkeypatch.setenv("DRMAD_LOG_LEVEL", "debug")
    assert logs.from_environment() == logs.LogSettings(format="json", level="DEBUG")
    monkeypatch.setenv("DRMAD_LOG_FORMAT", "")
    assert logs.from_environment().format == "text"


def test_unknown_log_format_is_refused_by_the_name_of_its_variable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DRMAD_LOG_FORMAT", "xml")
    with pytest.raises(ServiceStartError, match=r"DRMAD_LOG_FORMAT must be .*, got 'xml'"):
        logs.from_environment()
