"""The parser beside a slow general one (Earley) that runs the published grammar."""

import re
from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from lark import Lark, Token, Transformer
from lark.exceptions import UnexpectedInput, VisitError

from outlast.domain.errors import InvalidFilterError
from outlast.domain.filter import parse
from outlast.domain.filter.syntax import And, Not, Operator, Or, Restriction, Search, Text

# The grammar of AIP-160 with white space spelt out. Ours are the definitions of TEXT
# and STRING, and the colons inside an argument.
GRAMMAR = r"""
filter: _WS? (expression _WS?)?
expression: sequence (_WS "AND" _WS sequence)*
sequence: factor (_WS factor)*
factor: term (_WS "OR" _WS term)*
term: simple
    | "NOT" _WS simple -> negation
    | "-" simple -> negation
?simple: restriction | composite
restriction: comparable (_WS? COMPARATOR _WS? arg)?
?comparable: member | function
member: (TEXT | STRING) ("." field)*
function: (TEXT | KEYWORD) ("." (TEXT | ARG_TEXT | KEYWORD))* "(" _WS? (func_arg (_WS? "," _WS? func_arg)*)? _WS? ")"
?func_arg: member | function | composite
?arg: argument | function | composite
argument: (ARG_TEXT | STRING) (("." | colon) field)*
colon: ":"
?field: ARG_TEXT | STRING | KEYWORD
composite: "(" _WS? expression _WS? ")"
COMPARATOR: "<=" | "<" | ">=" | ">" | "!=" | "=" | ":"
KEYWORD: /(AND|OR|NOT)(?![^\s.,()<>=!:"'])/
ARG_TEXT: /(?!(?:AND|OR|NOT)(?![^\s.,()<>=!:"']))[^\s.,()<>=!:"']+/
TEXT: /(?!-|(?:AND|OR|NOT)(?![^\s.,()<>=!:"']))[^\s.,()<>=!:"']+/
STRING: /"(?:[^"\\]|\\["'\\*nrt])*"|'(?:[^'\\]|\\["'\\*nrt])*'/
_WS: /\s+/
"""
EARLEY = Lark(GRAMMAR, start="filter", parser="earley", lexer="dynamic")
ESCAPED = {"n": "\n", "r": "\r", "t": "\t"}


class RefusedError(Exception):
    """The grammar has it and we do not, as documented."""


def join(values):
    pieces = [""]
    for value in values:
        first, *others = value
        pieces[-1] += first
        pieces += others
    return tuple(pieces)


class ToExpression(Transformer):
    def TEXT(self, token):
        return token.split("*")

    ARG_TEXT = KEYWORD = TEXT

    def STRING(self, token):
        parts = re.findall(r"\\.|[^\\]", token[1:-1], re.DOTALL)
        pieces = [""]
        for part in parts:
            if part == "*":
                pieces.append("")
            else:
                pieces[-1] += ESCAPED.get(part[-1], part[-1]) if len(part) > 1 else part
        return pieces

    def colon(self, _):
        return [":"]

    def member(self, values):
        return values

    def argument(self, values):
        dotted = [values[0]]
        for before, value in pairwise(values):
            if value != [":"] and before != [":"]:
                dotted.append(["."])
            dotted.append(value)
        return Text(join(dotted))

    def function(self, _):
        raise RefusedError

    def restriction(self, children):
        path, *rest = children
        if not rest:
            return Search(Text(join([each for value in path for each in (["."], value)][1:])))
        operator, argument = rest
        names = tuple("*".join(value) for value in path)
        return distributed(names, Operator(str(operator)), argument)

    def composite(self, children):
        return children[0]

    def term(self, children):
        return children[0]

    def negation(self, children):
        return Not(children[0])

    def factor(self, children):
        return children[0] if len(children) == 1 else Or(tuple(children))

    def sequence(self, children):
        return children

    def expression(self, children):
        operands = [each for sequence in children for each in sequence]
        return operands[0] if len(operands) == 1 else And(tuple(operands))

    def filter(self, children):
        return children[0] if children else And()


def distributed(path, operator, argument):
    match argument:
        case Text():
            return Restriction(path, operator, argument)
        case _ if operator not in {Operator.EQUALS, Operator.HAS}:
            raise RefusedError
        case Search(text):
            return Restriction(path, operator, text)
        case Not(operand):
            return Not(distributed(path, operator, operand))
        case And(operands) | Or(operands):
            return type(argument)(tuple(distributed(path, operator, each) for each in operands))
        case _:
            raise RefusedError


def by_the_grammar(written):
    """Return the expression that the grammar reads, None if there is none."""
    try:
        return ToExpression().transform(EARLEY.parse(written))
    except UnexpectedInput:
        return None
    except VisitError as error:
        if isinstance(error.orig_exc, RefusedError):
            return None
        raise


def by_the_parser(written):
    try:
        return parse(written)
    except InvalidFilterError:
        return None


texts = st.sampled_from(
    ["a", "b*", "-30", "AND", "NOT", "2", "@type", "é", '"x y"', r"'it\'s \*'", "x-y", "and"]
)
spaces = st.sampled_from(["", " ", "  "])
members = st.lists(texts, min_size=1, max_size=3).map(".".join)
operators = st.sampled_from(["=", "!=", "<", "<=", ">", ">=", ":"])


def grown(expressions):
    parenthesised = st.builds("({}{}{})".format, spaces, expressions, spaces)
    simples = st.one_of(
        members,
        parenthesised,
        st.builds("{}{}{}{}{}".format, members, spaces, operators, spaces, members | parenthesised),
    )
    terms = st.builds("{}{}".format, st.sampled_from(["", "", "-", "NOT "]), simples)
    return st.builds(
        lambda first, rest: first + "".join(rest),
        terms,
        st.lists(
            st.builds("{}{}".format, st.sampled_from([" ", " AND ", " OR "]), terms), max_size=3
        ),
    )


sentences = st.recursive(members, grown, max_leaves=8)
soups = st.lists(
    st.sampled_from(
        [
            "a",
            "b",
            "AND",
            "OR",
            "NOT",
            "-",
            "(",
            ")",
            " ",
            " ",
            ".",
            ",",
            "=",
            "!=",
            "!",
            ":",
            "*",
            '"x"',
            "'",
            "\\",
            "f(",
        ]
    ),
    max_size=14,
).map("".join)


@settings(deadline=None)  # Earley takes its time
@given(sentences | soups)
@example("a AND b OR c")
@example("a=b:c:d.e OR -(x y)")
@example("a = (b OR (c d))")
@example("f(a, (b c)) ")
@example("NOT(a)")
@example("a OR(b)")
@example("a :b")
@example("a=b :c")
def test_the_parser_agrees_with_the_published_grammar(written):
    assert by_the_parser(written) == by_the_grammar(written)


@pytest.mark.parametrize(
    "written",
    [
        "a b AND c AND d",
        "(a b) AND c AND d",
        "New York Giants OR Yankees",
        "New York (Giants OR Yankees)",
        "a < 10 OR a >= 100",
        "NOT (a OR b)",
        '-file:".java"',
        "-30",
        "package=com.google",
        "msg != 'hello'",
        "1 > 0",
        "2.5 >= 2.4",
        "yesterday < request.time",
        "map:key",
        "prod",
        "expr.type_map.1.type",
    ],
)
def test_the_examples_of_the_grammar_are_read_alike(written):
    assert by_the_grammar(written) is not None
    assert by_the_parser(written) == by_the_grammar(written)


@pytest.mark.parametrize(
    "written",
    [
        "regex(m.key, '^x$')",
        "math.mem('30mb')",
        "experiment.rollout <= cohort(request.user)",
        "now() > 1",
    ],
)
def test_a_function_is_in_the_grammar_and_refused(written):
    EARLEY.parse(written)
    with pytest.raises(InvalidFilterError, match="functions are not supported"):
        parse(written)


def test_tokens_of_the_oracle_are_strings():
    # Keeps the oracle honest: a terminal it dropped could not differ.
    tree = EARLEY.parse("a.b = c:d")
    assert [str(each) for each in tree.scan_values(lambda each: isinstance(each, Token))] == [
        "a",
        "b",
        "=",
        "c",
        "d",
    ]
