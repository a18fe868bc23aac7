"""Settings as command-line flags.

A field that `setting` declares is the only declaration of that setting: its type, default, limit
and description serve the code, the flag, the DRMAD_... variable and the settings page alike. typer
reads the variable, so that `--help` shows it and its errors name it like those of the flag.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar, get_args, get_origin

import typer
from annotated_types import Ge
from pydantic import Field, ValidationError
from pydantic.fields import FieldInfo

Command = TypeVar("Command", bound=Callable[..., None])
Settings = TypeVar("Settings")


def setting(
    default: Any, description: str, least: float | None = None, name: str = "", flag: str = ""
) -> Any:
    """Declares a settings field that is also a flag and a DRMAD_... variable.

    Args:
        description: what the setting bounds or selects, with its unit; `--help` shows it.
        least: smallest accepted value, enforced for flags and for code.
        name: stem of the flag and the variable, where it differs from the field's name.
        flag: stem of the flag, where it differs from `name`: `--data-root` fills `data_roots`.
    """
    return Field(
        default=default,
        description=description,
        ge=least,
        json_schema_extra={"name": name, "flag": flag},
    )


def with_settings(*classes: type, **prefixed: type) -> Callable[[Command], Command]:
    """Gives a command one flag per setting of these classes, received as keyword arguments.

    The flags of `webhook=Webhooks` begin with `--webhook-`.
    """

    def decorate(command: Command) -> Command:
        flags = [
            flag.parameter()
            for prefix, owner in [*(("", owner) for owner in classes), *prefixed.items()]
            for flag in _flags(owner, prefix)
        ]
        signature = inspect.signature(command, eval_str=True)
        own = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
        parameters = [p.replace(kind=p.KEYWORD_ONLY) for p in own] + flags
        command.__signature__ = signature.replace(  # type: ignore[attr-defined]
            parameters=parameters
        )
        return command

    return decorate


def filled(
    settings: type[Settings], flags: Mapping[str, Any], prefix: str = "", **others: Any
) -> Settings:
    """The settings that the flags give; `others` are the fields that have no flag.

    Raises:
        typer.BadParameter: a value that its type does not accept.
    """
    declared = {flag.field: flag for flag in _flags(settings, prefix)}
    given = {field: flags[flag.name] for field, flag in declared.items()}
    try:
        return settings(**given, **others)
    except ValidationError as error:
        wrong = error.errors()[0]
        flag = declared.get(str(wrong["loc"][0])) if wrong["loc"] else None
        raise typer.BadParameter(
            wrong["msg"].removeprefix("Value error, "),
            param_hint=f"{flag.option} or DRMAD_{flag.name.upper()}" if flag else None,
        ) from error


@dataclass(frozen=True)
class _Flag:
    field: str
    declared: FieldInfo
    name: str
    """Name of the command's parameter, and stem of the variable."""
    option: str

    def parameter(self) -> inspect.Parameter:
        option = typer.Option(
            self.option,
            envvar=f"DRMAD_{self.name.upper()}",
            min=next((m.ge for m in self.declared.metadata if isinstance(m, Ge)), None),  # type: ignore[arg-type]
            help=self.declared.description,
        )
        annotation: Any = self.declared.annotation
        default = self.declared.default
        if get_origin(annotation) is tuple:  # typer repeats a flag whose type is a list
            annotation, default = list[get_args(annotation)[0]], []  # type: ignore[misc]
        return inspect.Parameter(
            self.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=default,
            annotation=Annotated[annotation, option],
        )


def _flags(owner: Any, prefix: str) -> Iterator[_Flag]:
    for field, declared in owner.__pydantic_fields__.items():
        if (stems := declared.json_schema_extra) is not None:
            parts = [prefix] if prefix else []
            name = stems["name"] or field
            option = "-".join([*parts, stems["flag"] or name]).replace("_", "-")
            yield _Flag(field, declared, "_".join([*parts, name]), f"--{option}")
