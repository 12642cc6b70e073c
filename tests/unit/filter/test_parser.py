"""The syntax of AIP-160: what is read, what is refused, and how it is said."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outlast.domain.errors import InvalidFilterError
from outlast.domain.filter import (
    MAX_DEPTH,
    MAX_FILTER_LENGTH,
    MAX_PATH_LENGTH,
    MAX_TERMS,
    parse,
)
from outlast.domain.filter.syntax import And, Not, Operator, Or, Restriction, Search, Text


def text(written):
    return Text(tuple(written.split("*")))


def word(written):
    return Search(text(written))


def restriction(path, operator, argument):
    return Restriction(tuple(path.split(".")), Operator(operator), text(argument))


A, B, C, D = (word(each) for each in "abcd")


@pytest.mark.parametrize("written", ["", " ", "\t\n "])
def test_an_empty_filter_asks_for_nothing(written):
    assert parse(written) == And()


@pytest.mark.assertion(105)
@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("a", A),
        ("a b", And((A, B))),
        ("a AND b", And((A, B))),
        ("a OR b", Or((A, B))),
        ("a OR b OR c", Or((A, B, C))),
        ("a AND b OR c", And((A, Or((B, C))))),
        ("a OR b AND c", And((Or((A, B)), C))),
        ("a b AND c AND d", And((A, B, C, D))),
        ("a b OR c d", And((A, Or((B, C)), D))),
        ("(a AND b) OR c", Or((And((A, B)), C))),
        ("a AND (b AND c)", And((A, And((B, C))))),
        ("((a))", A),
        ("( a  OR\tb )", Or((A, B))),
        ("  a  ", A),
    ],
)
def test_or_binds_tighter_than_and_and_a_sequence_means_and(written, expected):
    assert parse(written) == expected


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("NOT a", Not(A)),
        ("-a", Not(A)),
        ("NOT (a OR b)", Not(Or((A, B)))),
        ("-(a OR b)", Not(Or((A, B)))),
        ('-file:".java"', Not(restriction("file", ":", ".java"))),
        ("NOT a OR b", Or((Not(A), B))),
        ("a -b", And((A, Not(B)))),
        ("-30", Not(word("30"))),
        ("a-b", word("a-b")),
        ("NOTa", word("NOTa")),
    ],
)
def test_negation_is_written_in_two_ways(written, expected):
    assert parse(written) == expected


@pytest.mark.parametrize("operator", ["=", "!=", "<", "<=", ">", ">=", ":"])
@pytest.mark.parametrize("space", ["", " ", " \n"])
def test_every_operator_is_known_with_and_without_white_space(operator, space):
    assert parse(f"a.b{space}{operator}{space}c") == restriction("a.b", operator, "c")


@pytest.mark.parametrize("word_", ["and", "or", "not", "And", "ANDROID", "NOTE", "ORB"])
@pytest.mark.assertion(105)
def test_only_capital_letters_make_a_keyword(word_):
    assert parse(f"a {word_} b") == And((A, word(word_), B))


@pytest.mark.parametrize(
    ("written", "argument"),
    [
        ("a=-30", "-30"),
        ("a > -2.5", "-2.5"),
        ("a = 2.997e9", "2.997e9"),
        ("a = -", "-"),
        ("a=2012-04-21T11:30:00.5-04:00", "2012-04-21T11:30:00.5-04:00"),
        ("a:https://host/path", "https://host/path"),
        ("metadata.@type=type.googleapis.com/a.b.C", "type.googleapis.com/a.b.C"),
        ("a = x.AND.OR", "x.AND.OR"),
        ('a = "(b OR c) , <"', "(b OR c) , <"),
        ("a = ''", ""),
    ],
)
def test_an_argument_is_one_text(written, argument):
    assert parse(written).argument == text(argument)


@pytest.mark.parametrize(
    ("written", "pieces"),
    [
        ("*", ("", "")),
        ("'*.foo'", ("", ".foo")),
        ("foo*", ("foo", "")),
        ("a*b.c*d", ("a", "b.c", "d")),
        (r"'a\*b*'", ("a*b", "")),
        (r'"\\ \" \' \n\r\t"', ("\\ \" ' \n\r\t",)),
        (r"a\b", (r"a\b",)),
        ("'don\\'t'", ("don't",)),
        ('"ü 日本"', ("ü 日本",)),
    ],
)
def test_a_string_has_wildcards_and_escapes(written, pieces):
    assert parse(f"a = {written}").argument == Text(pieces)
    assert parse(written) == Search(Text(pieces))


def test_a_path_may_have_keywords_numbers_and_strings_in_it():
    assert parse("a.NOT.1.'b c'.@type:*").path == ("a", "NOT", "1", "b c", "@type")


@pytest.mark.parametrize(
    ("written", "same_as"),
    [
        ("a = (b OR c)", "a=b OR a=c"),
        ("a:(b c)", "a:b a:c"),
        ("a = (NOT b)", "NOT a=b"),
        ("a = (b AND (c OR -d))", "a=b AND (a=c OR -a=d)"),
        ("a.b=((1.5))", "a.b=1.5"),
    ],
)
def test_a_parenthesised_argument_is_a_restriction_for_each_value(written, same_as):
    assert parse(written) == parse(same_as)


@pytest.mark.assertion(106)
@pytest.mark.parametrize(
    ("written", "description", "character"),
    [
        ("AND", "found 'AND', expected a field or a value", 1),
        ("a AND", "found the end, expected white space after AND", 6),
        ("a AND ", "found the end, expected a field or a value", 7),
        ("a OR", "found the end", 5),
        ("OR a", "found 'OR'", 1),
        ("a AND OR b", "found 'OR'", 7),
        ("NOT", "found the end", 4),
        ("NOT(a)", "expected white space after NOT", 4),
        ("a AND(b)", "expected white space after AND", 6),
        ("a OR(b)", "expected white space after OR", 5),
        ("NOT NOT a", "found 'NOT'", 5),
        ("NOT -a", "one negation at most", 5),
        ("--a", "one negation at most", 2),
        ("-", "found the end", 2),
        ("- a", "'-' must touch what it negates", 2),
        ("-AND", "found 'AND'", 2),
        ("(a", "'(' is never closed", 1),
        ("a)", "')' closes nothing", 2),
        ("()", "found ')'", 2),
        ("a = ()", "found ')'", 6),
        ("(a)(b)", "found '(', expected white space", 4),
        ("(a)b", "found 'b', expected white space", 4),
        ("(a)OR b", "expected white space before OR", 4),
        ('"a""b"', "expected white space", 4),
        ("a = ", "found the end, expected a field or a value", 5),
        ("= a", "found '='", 1),
        ("a == b", "found '='", 4),
        ("a = b = c", "found '='", 7),
        ("a = b=c", "found '='", 6),
        ("a = AND", "found 'AND'", 5),
        ("a = NOT b", "found 'NOT'", 5),
        ("a.", "found the end", 3),
        (".a", "found '.'", 1),
        ("a..b", "found '.'", 3),
        ("a .b", "found '.'", 3),
        ("a. b", "no white space may follow '.'", 3),
        ("a, b", "found ','", 2),
        ("!a", "to negate, use NOT or '-'", 1),
        ("a ! b", "to negate, use NOT or '-'", 3),
        ("a = 'b", "a string begins here and does not end", 5),
        (r"'b\'", "a string begins here and does not end", 1),
        (r"a = '\d'", "unknown escape", 6),
        ("a \0", "NUL", 3),
        ("f()", "functions are not supported", 2),
        ("a = f(b, 'c')", "functions are not supported", 6),
        ("math.mem('30mb')", "functions are not supported", 9),
        ("a != (b OR c)", "not with '!='", 6),
        ("a = (b = c)", "holds values only", 6),
        ("a = (b = (c))", "holds values only", 6),
    ],
)
def test_a_syntax_error_says_what_and_where(written, description, character):
    with pytest.raises(InvalidFilterError) as caught:
        parse(written)
    assert description in caught.value.description
    assert caught.value.description.endswith(f"(at character {character})")
    assert caught.value.field == "filter"


def complaint(written):
    """Return the message of the error, empty if there is none."""
    try:
        parse(written)
    except InvalidFilterError as error:
        return error.message
    return ""


def refused(written, description):
    assert description in complaint(written)
    assert len(complaint(written)) < 400


@pytest.mark.assertion(109)
class TestLimits:
    def test_the_length_is_limited(self):
        parse("a" * MAX_FILTER_LENGTH)
        refused("a" * (MAX_FILTER_LENGTH + 1), f"the limit is {MAX_FILTER_LENGTH}")
        refused('a="' + "b" * 65536 + '"', "the limit is")

    def test_the_number_of_terms_is_limited(self):
        parse(" ".join(["a"] * MAX_TERMS))
        parse("a=(" + " OR ".join(["b"] * (MAX_TERMS - 1)) + ")")
        refused(" ".join(["a"] * (MAX_TERMS + 1)), f"more than {MAX_TERMS} terms")
        refused("a=(" + " OR ".join(["b"] * MAX_TERMS) + ")", f"more than {MAX_TERMS} terms")
        refused(" OR ".join(["a=b"] * 10_000), "the limit is")
        refused("a " * 4000, f"more than {MAX_TERMS} terms")

    @pytest.mark.parametrize("opening", ["(", "-(", "NOT (", "a=(", "a OR ("])
    def test_the_depth_is_limited(self, opening):
        refused(
            opening * (MAX_DEPTH + 1) + "a" + ")" * (MAX_DEPTH + 1), f"{MAX_DEPTH} parentheses deep"
        )
        refused(opening * 1000, f"{MAX_DEPTH} parentheses deep")
        refused(opening * 10_000, "the limit is")

    def test_as_deep_as_the_limit_is_fine(self):
        assert parse("(" * MAX_DEPTH + "a" + ")" * MAX_DEPTH) == A

    def test_closed_parentheses_do_not_count(self):
        parse(" ".join(["(a)"] * MAX_TERMS))
        refused("(a) (a) " + "(" * (MAX_DEPTH + 1), f"{MAX_DEPTH} parentheses deep")

    def test_the_length_of_a_path_is_limited(self):
        parse(".".join("a" * MAX_PATH_LENGTH) + ":*")
        refused(".".join("a" * (MAX_PATH_LENGTH + 1)) + ":*", f"{MAX_PATH_LENGTH} names")

    @pytest.mark.parametrize(
        "unit", ['"', "'", "\\", "a.", "-", "*", "!", "=", ":", "a=", "a:", ",", "a(", "é"]
    )
    def test_a_long_row_of_anything_is_answered_shortly(self, unit):
        assert len(complaint(unit * (MAX_FILTER_LENGTH // len(unit)))) < 400


@given(st.text(alphabet=st.sampled_from("aNOTRD \t.,()<>=!:\"'*\\-1é\0"), max_size=200))
def test_any_text_is_parsed_or_refused_with_a_short_message(written):
    said = complaint(written)
    assert len(said) < 400
    assert not said or "at character" in said
