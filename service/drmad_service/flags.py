"""Settings as flags: a field made by `setting` is declared once, for code, flags and docs."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import Field, field, fields
from typing import Annotated, Any, TypeVar, get_type_hints

import typer

Command = TypeVar("Command", bound=Callable[..., None])
Settings = TypeVar("Settings")


def setting(default: Any, meaning: str, least: float | None = None) -> Any:
    """A field of a settings class that is a flag and a DRMAD_... variable too.

    Args:
        meaning: what --help says of it, with its unit.
        least: the least that is accepted.
    """
    return field(default=default, metadata={"meaning": meaning, "least": least})


def with_settings(*classes: type, **prefixed: type) -> Callable[[Command], Command]:
    """Gives a command a flag for every setting of these classes, as keyword arguments.

    Those of `webhook=Webhooks` are flags that begin with --webhook-.
    """

    def decorate(command: Command) -> Command:
        flags = [
            _parameter(name, owner, setting)
            for prefix, owner in [*(("", owner) for owner in classes), *prefixed.items()]
            for name, setting in _settings(owner, prefix)
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
    """The settings that the flags give, and others that are no flags."""
    given = {setting.name: flags[name] for name, setting in _settings(settings, prefix)}
    return settings(**given, **others)


def _settings(owner: Any, prefix: str) -> Iterator[tuple[str, Field[Any]]]:
    for declared in fields(owner):
        if "meaning" in declared.metadata:
            yield "_".join(filter(None, [prefix, declared.name])), declared


def _parameter(name: str, owner: type, declared: Field[Any]) -> inspect.Parameter:
    option = typer.Option(
        envvar=f"DRMAD_{name.upper()}",
        min=declared.metadata["least"],
        help=declared.metadata["meaning"],
    )
    return inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        default=declared.default,
        annotation=Annotated[get_type_hints(owner)[declared.name], option],
    )
