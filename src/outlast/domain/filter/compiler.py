"""From an expression to a predicate on records.

Whatever can be wrong is found here, before any record is seen. A restriction on a
field that a record does not have, or that cannot be reached because a message on
the way is unset, is not true, with `!=` as well; so NOT of it is true.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, assert_never

from outlast.domain.errors import InvalidFilterError
from outlast.domain.filter.comparison import Test, comparison
from outlast.domain.filter.schema import (
    Enumeration,
    Field,
    Map,
    Message,
    Repeated,
    Scalar,
    Schema,
    SearchableSchema,
    Type,
)
from outlast.domain.filter.syntax import (
    ANYTHING,
    And,
    Expression,
    Not,
    Operator,
    Or,
    Restriction,
    Search,
    Text,
    invalid,
    shown,
)

Predicate = Callable[[Any], bool]
"""Whether a record matches."""


def compile_filter(expression: Expression, schema: SearchableSchema) -> Predicate:
    """Return the predicate that an expression is on the records of a schema.

    Raises InvalidFilterError for a field that the schema does not have, an argument
    that is not of the field's type, and an operator that its type does not have.
    """
    match expression:
        case Search(text):
            return _search(text, schema.texts)
        case Restriction():
            return compile_restriction(expression, schema)
        case Not(operand):
            negated = compile_filter(operand, schema)
            return lambda record: not negated(record)
        case And(operands):
            tests = [compile_filter(each, schema) for each in operands]
            return lambda record: all(test(record) for test in tests)
        case Or(operands):
            return _any([compile_filter(each, schema) for each in operands])
        case unreachable:
            assert_never(unreachable)


def compile_restriction(restriction: Restriction, schema: Schema) -> Predicate:
    """Return the predicate that a restriction is; raises as `compile_filter` does."""
    return _in_message(schema, restriction.path, restriction)


def _search(text: Text, texts: Callable[[Any], Iterable[str]]) -> Predicate:
    # With a wildcard at both ends, to match is to contain.
    sought = Text(("", *(piece.casefold() for piece in text.pieces), ""))
    return lambda record: any(sought.matches(each.casefold()) for each in texts(record))


def _in_message(schema: Schema, path: Sequence[str], restriction: Restriction) -> Test:
    """Return the test on a message of which the field `path` is restricted."""
    name, *rest = path
    tests: list[Test] = []
    errors: list[InvalidFilterError] = []
    for field in schema.fields(name):
        try:
            tests.append(_in_field(field, rest, restriction))
        except InvalidFilterError as error:
            errors.append(error)
    if tests:
        return _any(tests)
    if errors:
        raise errors[0]
    known = len(restriction.path) - len(path)
    unknown = ".".join(restriction.path[: known + 1])
    raise invalid(f"there is no field {shown(unknown)}", restriction.position)


def _in_field(field: Field, path: Sequence[str], restriction: Restriction) -> Test:
    get, test = field.get, _in_value(field.type, path, restriction)

    def got(message: Any) -> bool:
        value = get(message)
        return value is not None and test(value)

    return got


def _in_value(type_: Type, path: Sequence[str], restriction: Restriction) -> Test:
    """Return the test on a value in which `path` is still to go."""
    match type_:
        case Message(schema) if path:
            return _in_message(schema, path, restriction)
        case Message(schema):
            return _has_field(schema, restriction)
        case Repeated(element):
            return _has_element(element, path, restriction)
        case Map(key, value) if path:
            return _at_key(key, value, path, restriction)
        case Map(key):
            return _has_key(key, restriction)
        case Scalar() | Enumeration():
            if path:
                raise invalid(
                    f"{shown(path[0])} is not in a message or map: {restriction.name}",
                    restriction.position,
                )
            return comparison(type_, restriction)
        case unreachable:
            assert_never(unreachable)


def _has_field(schema: Schema, restriction: Restriction) -> Test:
    _require_has(restriction, "a message")
    if restriction.asks_for_presence:
        return lambda _: True
    name = restriction.argument.text
    path = (*restriction.path, name)
    presence = Restriction(path, Operator.HAS, ANYTHING, restriction.position)
    return _in_message(schema, [name], presence)


def _has_element(
    element: Scalar | Enumeration | Message, path: Sequence[str], restriction: Restriction
) -> Test:
    _require_has(restriction, "a repeated field or in one")
    if not path and restriction.asks_for_presence:
        return bool
    test = _in_value(element, path, restriction)
    return lambda elements: any(test(each) for each in elements)


def _has_key(key: Scalar, restriction: Restriction) -> Test:
    _require_has(restriction, "a map")
    if restriction.asks_for_presence:
        return bool
    test = comparison(key, restriction)
    return lambda entries: any(test(each) for each in entries)


def _at_key(
    key: Scalar,
    value: Scalar | Enumeration | Message,
    path: Sequence[str],
    restriction: Restriction,
) -> Test:
    name, *rest = path
    named = Restriction(
        restriction.path, Operator.EQUALS, Text((name,), restriction.position), restriction.position
    )
    is_named = comparison(key, named)
    if not rest and restriction.asks_for_presence:
        # A key that is there is present, whatever its value.
        return lambda entries: any(is_named(each) for each in entries)
    test = _in_value(value, rest, restriction)
    return lambda entries: any(is_named(each) and test(found) for each, found in entries.items())


def _require_has(restriction: Restriction, what: str) -> None:
    if restriction.operator is not Operator.HAS:
        raise invalid(
            f"{restriction.name} is {what}, which takes ':' only, not '{restriction.operator}'",
            restriction.position,
        )


def _any(tests: Sequence[Test]) -> Test:
    if len(tests) == 1:
        return tests[0]
    return lambda record: any(test(record) for test in tests)
