"""How one value is compared with an argument of its type."""

import operator as operators
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, assert_never

from outlast.domain.errors import InvalidFilterError
from outlast.domain.filter import values
from outlast.domain.filter.schema import Enumeration, Kind, Scalar
from outlast.domain.filter.syntax import Operator, Restriction, invalid, shown

Test = Callable[[Any], bool]
"""Whether a value is as a restriction wants it."""

_EQUALITY: Mapping[Operator, Callable[[Any, Any], bool]] = MappingProxyType(
    {
        Operator.EQUALS: operators.eq,
        Operator.HAS: operators.eq,
        Operator.NOT_EQUALS: operators.ne,
    }
)
_ORDER: Mapping[Operator, Callable[[Any, Any], bool]] = MappingProxyType(
    {
        Operator.LESS_THAN: operators.lt,
        Operator.LESS_EQUALS: operators.le,
        Operator.GREATER_THAN: operators.gt,
        Operator.GREATER_EQUALS: operators.ge,
    }
)
_COMPARE = MappingProxyType({**_EQUALITY, **_ORDER})

# What counts as absent. Times are messages: present whenever they are set.
_DEFAULTS: Mapping[Kind, object] = MappingProxyType(
    {Kind.BOOL: False, Kind.INT: 0, Kind.FLOAT: 0, Kind.STRING: "", Kind.TYPE_URL: ""}
)


@dataclass(frozen=True, slots=True)
class _Reading:
    """How arguments of a kind are read, and what of a record's value they compare with."""

    read: Callable[[str], Any]
    expected: str
    key: Callable[[Any], Any] | None = None


_READINGS: Mapping[Kind, _Reading] = MappingProxyType(
    {
        Kind.BOOL: _Reading(values.boolean, "true or false"),
        Kind.INT: _Reading(values.integer, "an integer"),
        Kind.FLOAT: _Reading(values.number, "a number"),
        Kind.TIMESTAMP: _Reading(
            values.timestamp, "an RFC 3339 time such as 2024-01-31T23:59:59Z", values.since_epoch
        ),
        Kind.DURATION: _Reading(
            values.duration, "a number of seconds such as 1.5s", values.nanoseconds
        ),
    }
)


def comparison(type_: Scalar | Enumeration, restriction: Restriction) -> Test:
    """Return the test that a restriction is on the values of a type.

    Raises InvalidFilterError if the type does not have the operator, or the argument
    is not of the type.
    """
    if restriction.asks_for_presence:
        return _presence(type_)
    if isinstance(type_, Enumeration):
        return _enumeration(type_, restriction)
    match type_.kind:
        case Kind.STRING:
            return _string(restriction)
        case Kind.TYPE_URL:
            return _type_url(restriction)
        case Kind.BOOL | Kind.INT | Kind.FLOAT | Kind.TIMESTAMP | Kind.DURATION:
            return _read(type_, restriction)
        case unreachable:
            assert_never(unreachable)


def _presence(type_: Scalar | Enumeration) -> Test:
    if isinstance(type_, Enumeration):
        return _against(type_.default, operators.ne)
    return _against(_DEFAULTS.get(type_.kind), operators.ne)


def _enumeration(type_: Enumeration, restriction: Restriction) -> Test:
    _require_equality(restriction, "an enum")
    if restriction.argument.text not in type_.values:
        raise _mismatch(restriction, f"one of {shown(', '.join(type_.values))}")
    return _against(restriction.argument.text, _EQUALITY[restriction.operator])


def _read(type_: Scalar, restriction: Restriction) -> Test:
    if type_.kind is Kind.BOOL:
        _require_equality(restriction, type_.kind)
    reading, compare = _READINGS[type_.kind], _COMPARE[restriction.operator]
    text, key = restriction.argument.text, reading.key
    try:
        expected = type_.names[text] if text in type_.names else reading.read(text)
    except ValueError:
        names = f" or one of {', '.join(type_.names)}" if type_.names else ""
        raise _mismatch(restriction, reading.expected + names) from None
    if key is None:
        return _against(expected, compare)
    return lambda value: compare(key(value), expected)


def _string(restriction: Restriction) -> Test:
    argument = restriction.argument
    if restriction.operator in _ORDER:
        return _against(argument.text, _ORDER[restriction.operator])
    if restriction.operator is Operator.NOT_EQUALS:
        return lambda value: not argument.matches(value)
    return argument.matches


def _type_url(restriction: Restriction) -> Test:
    _require_equality(restriction, Kind.TYPE_URL)
    test = _string(restriction)
    if "/" in restriction.argument.text:
        return test
    return lambda value: test(value.rpartition("/")[2])


def _require_equality(restriction: Restriction, what: str) -> None:
    if restriction.operator in _ORDER:
        raise invalid(
            f"{restriction.name} is {what}, which has no '{restriction.operator}'",
            restriction.position,
        )


def _against(expected: object, compare: Callable[[Any, Any], bool]) -> Test:
    return lambda value: compare(value, expected)


def _mismatch(restriction: Restriction, expected: str) -> InvalidFilterError:
    argument = restriction.argument
    return invalid(
        f"{restriction.name} is compared with {shown(argument.text)}, which is not {expected}",
        argument.position,
    )
