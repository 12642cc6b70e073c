"""The types of the command's parameters."""

import math
import re
from collections.abc import Collection
from dataclasses import fields
from datetime import timedelta
from difflib import get_close_matches
from textwrap import fill
from typing import Any

import click
from click.core import ParameterSource

from outlast.engine.settings import EngineSettings

NEVER = "never"
MAX_ANSWER_SECONDS = 30.0

_UNITS = {"ms": 0.001, "": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION = re.compile(r"(?P<number>[0-9]{1,9}(?:\.[0-9]+)?)(?P<unit>ms|s|m|h|)")
_URL_SCHEME = re.compile(r"(?:https?|grpcs?)://", re.IGNORECASE)
_HEADER_NAME = re.compile(r"[a-z0-9._-]+")


class EnvironmentOption(click.Option):
    """An option with a variable, which an error names only if the value came from there."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings | {"show_envvar": True})

    def get_error_hint(self, ctx: click.Context | None) -> str:
        """Return how an error calls the option."""
        source = ctx.get_parameter_source(self.name) if ctx and self.name else None
        if source is ParameterSource.ENVIRONMENT:
            return super().get_error_hint(ctx)
        return " / ".join(f"'{name}'" for name in self.opts)


def duration(text: str) -> float:
    """Return the seconds of a text such as 250ms, 30, 30s, 5m, 1h or never."""
    if text == NEVER:
        return math.inf
    match = _DURATION.fullmatch(text.strip())
    if match is None:
        raise click.BadParameter(f"{text!r} is not a duration such as 250ms, 30s, 5m or 1h.")
    return float(match["number"]) * _UNITS[match["unit"]]


def finite_duration(text: str) -> float:
    """Return the seconds of a duration other than never."""
    if text == NEVER:
        raise click.BadParameter("must have an end.")
    return duration(text)


def positive_duration(text: str) -> float:
    """Return the seconds of a duration that is neither never nor nothing."""
    seconds = finite_duration(text)
    if not seconds:
        raise click.BadParameter("must be more than 0.")
    return seconds


def answer_timeout(text: str) -> float:
    """Return the seconds of a duration for which one answer is waited for."""
    seconds = positive_duration(text)
    if seconds > MAX_ANSWER_SECONDS:
        raise click.BadParameter(f"must be {MAX_ANSWER_SECONDS:g} s at most.")
    return seconds


def count(text: str) -> int:
    """Return a whole number of at least 1."""
    if not (text.isascii() and text.isdigit() and int(text)):
        raise click.BadParameter(f"{text!r} is not a whole number of at least 1.")
    return int(text)


def address_of_server(text: str) -> str:
    """Return an address as gRPC has it: no URL."""
    scheme = _URL_SCHEME.match(text)
    if scheme is not None:
        rest = text.removeprefix(scheme[0]).rstrip("/") or "HOST:PORT"
        hint = ", with --tls" if scheme[0].lower() in {"https://", "grpcs://"} else ""
        raise click.BadParameter(f"leave out {scheme[0]}: give {rest}{hint}.")
    return text


def engine_setting(text: str) -> tuple[str, int | timedelta]:
    """Return the name and the value of a setting of the engine, `name=value`."""
    name, separator, value = text.partition("=")
    kinds = {field.name: type(field.default) for field in fields(EngineSettings)}
    if not separator:
        raise click.BadParameter(f"{text!r} is not NAME=VALUE, such as max_pending=500.")
    if name not in kinds:
        raise click.BadParameter(f"there is no setting {name!r}. {_settings_meant(name, kinds)}")
    try:
        if kinds[name] is timedelta:
            return name, timedelta(seconds=positive_duration(value))
        return name, count(value)
    except click.BadParameter as error:
        raise click.BadParameter(f"{name}: {error.message}") from None


def _settings_meant(name: str, names: Collection[str]) -> str:
    """Return the setting that was probably meant, or all that there are, in lines."""
    close = get_close_matches(name, names, n=1)
    if close:
        return f"Did you mean {close[0]}?"
    return "The settings are:\n" + fill(
        ", ".join(names), initial_indent="  ", subsequent_indent="  "
    )


def header(text: str) -> tuple[str, str]:
    """Return the name, in lower case, and the value of a request header `name:value`."""
    name, separator, value = text.partition(":")
    name, value = name.strip().lower(), value.strip()
    if not separator or _HEADER_NAME.fullmatch(name) is None:
        raise click.BadParameter(f"{text!r} is not of the form name:value.")
    if name.startswith("grpc-") or name.endswith("-bin"):
        raise click.BadParameter(f"{name!r}: headers grpc-… and …-bin cannot be given.")
    if not (value.isascii() and value.isprintable()):
        raise click.BadParameter(f"the value of {name!r} is not printable ASCII.")
    return name, value
