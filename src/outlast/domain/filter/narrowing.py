"""What of a filter a store can test by itself."""

from collections.abc import Iterator
from typing import TypeVar, assert_never

from outlast.domain.filter.compiler import compile_restriction
from outlast.domain.filter.operations import DEAD_LETTER_TYPE, DONE_TYPE, STATE_TYPE
from outlast.domain.filter.schema import Field, FixedSchema
from outlast.domain.filter.syntax import And, Expression, Not, Operator, Or, Restriction, Search
from outlast.domain.listing import Conditions
from outlast.domain.operation import State

_Value = TypeVar("_Value")

# The fields that the conditions decide, as fields of the conditions' own values.
_OF_STATE = FixedSchema(
    {
        "state": Field(STATE_TYPE, lambda state: state),
        "done": Field(DONE_TYPE, lambda state: state.done),
    }
)
_OF_DEAD_LETTER = FixedSchema({"dead_letter": Field(DEAD_LETTER_TYPE, lambda flag: flag)})

_STATES = frozenset(State)
_FLAGS = frozenset({False, True})


def conditions(expression: Expression) -> Conditions:
    """Return conditions that every operation meets which an expression is true for.

    Raises InvalidFilterError for some expressions that do not compile.
    """
    states, _ = _bounds(expression, _OF_STATE, _STATES)
    dead_letter, _ = _bounds(expression, _OF_DEAD_LETTER, _FLAGS)
    return Conditions(
        states=None if states == _STATES else states,
        method=next(_methods(expression), None),
        dead_letter=next(iter(dead_letter)) if len(dead_letter) == 1 else None,
    )


def _bounds(
    expression: Expression, schema: FixedSchema, every: frozenset[_Value]
) -> tuple[frozenset[_Value], frozenset[_Value]]:
    """Return the values that an expression may be true with, and those it must be true with.

    With the second set, NOT is exact: it may be true where its operand need not be.
    """
    match expression:
        case Restriction(path) if len(path) == 1 and schema.fields(path[0]):
            test = compile_restriction(expression, schema)
            decided = frozenset(value for value in every if test(value))
            return decided, decided
        case Restriction() | Search():
            return every, frozenset()
        case Not(operand):
            may, must = _bounds(operand, schema, every)
            return every - must, every - may
        case And(operands):
            bounds = [_bounds(each, schema, every) for each in operands]
            return every.intersection(*(may for may, _ in bounds)), every.intersection(
                *(must for _, must in bounds)
            )
        case Or(operands):
            bounds = [_bounds(each, schema, every) for each in operands]
            return frozenset().union(*(may for may, _ in bounds)), frozenset().union(
                *(must for _, must in bounds)
            )
        case unreachable:
            assert_never(unreachable)


def _methods(expression: Expression) -> Iterator[str]:
    """Yield methods that an operation must have been started by."""
    match expression:
        case And(operands):
            for each in operands:
                yield from _methods(each)
        case Restriction(("verb",), Operator.EQUALS | Operator.HAS, argument):
            if not argument.has_wildcard:
                yield argument.text
        case _:
            return
