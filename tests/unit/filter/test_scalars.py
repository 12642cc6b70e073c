"""Comparisons of single values, clause by clause of AIP-160."""

import fnmatch

import pytest
from hypothesis import given
from hypothesis import strategies as st


class TestStrings:
    @pytest.mark.parametrize(
        ("written", "expected"),
        [
            ("s=a.foo", True),
            ("s:a.foo", True),
            ("s=A.foo", False),
            ("s=a", False),
            ("s:foo", False),
            ("s='*.foo'", True),
            ("s=*.foo", True),
            ("s=a*", True),
            ("s=*.f*", True),
            ("s=a*.*o", True),
            ("s=a.foo*a.foo", False),
            ("s=*", True),
            ("s!=*.foo", False),
            ("s!=*.bar", True),
            (r"s='\*.foo'", False),
            ("s!=b", True),
            ("s<b", True),
            ("s<=a.foo", True),
            ("s>a.foo", False),
            ("s>=a", True),
            ("s>*", True),
            ("s=('a.foo' OR b)", True),
            ("s:*", True),
        ],
    )
    def test_operators(self, matches, written, expected):
        assert matches(written, s="a.foo") is expected

    def test_the_empty_string_is_equal_to_itself_and_not_present(self, matches):
        assert matches('s=""', s="")
        assert matches("s=*", s="")
        assert not matches("s:*", s="")
        assert not matches("s=a*a", s="a")

    @given(st.text("ab*", max_size=8), st.text("ab", max_size=10))
    def test_wildcards_are_those_of_the_shell(self, matches, pattern, value):
        assert matches(f"s='{pattern}'", s=value) is fnmatch.fnmatchcase(value, pattern)

    def test_many_wildcards_take_no_time(self, matches):
        assert not matches("s='" + "a*" * 3000 + "b'", s="a" * 100_000)


class TestBooleans:
    @pytest.mark.parametrize("operator", ["=", ":"])
    def test_equality(self, matches, operator):
        assert matches(f"b{operator}true", b=True)
        assert matches(f'b{operator}"true"', b=True)
        assert not matches(f"b{operator}true", b=False)
        assert matches(f"b{operator}false", b=False)

    def test_inequality_and_presence(self, matches):
        assert matches("b!=true", b=False)
        assert matches("b:*", b=True)
        assert not matches("b:*", b=False)

    @pytest.mark.assertion(106)
    @pytest.mark.parametrize("argument", ["maybe", "True", "1", "''", "null", "tru*"])
    def test_only_true_and_false_are_booleans(self, refuse, argument):
        refuse(f"b={argument}", "which is not true or false")

    @pytest.mark.parametrize("operator", ["<", "<=", ">", ">="])
    def test_there_is_no_order(self, refuse, operator):
        refuse(f"b{operator}true", f"'b' is a boolean, which has no '{operator}'")


class TestNumbers:
    @pytest.mark.parametrize(
        ("written", "expected"),
        [
            ("i=42", True),
            ("i:42", True),
            ("i=042", True),
            ("i!=42", False),
            ("i<43", True),
            ("i<=41", False),
            ("i>-30", True),
            ("i>=42", True),
            ("i:*", True),
            ("f=2.5", True),
            ("f=25e-1", True),
            ("f<2.997e9", True),
            ("f>-.5", True),
            ("f>'-.5'", True),
            ("f>1e999", False),
            ("f=3", False),
            ("f!=3", True),
            ("code=HIGH", True),
            ("code=9", True),
            ("code!=LOW", True),
            ("code>LOW", True),
        ],
    )
    def test_operators(self, matches, written, expected):
        assert matches(written, i=42, f=2.5, code=9) is expected

    @pytest.mark.parametrize("edge", [-(2**63), 2**64 - 1])
    def test_signed_and_unsigned_integers_of_64_bits_are_known(self, matches, edge):
        assert matches(f"i={edge}", i=edge)

    def test_zero_is_a_value_and_not_present(self, matches):
        assert matches("i=0", i=0)
        assert not matches("i:*", i=0)
        assert not matches("f:*", f=0.0)

    @pytest.mark.parametrize(
        "argument",
        [
            "x",
            "2.5",
            "1e3",
            "0x10",
            "1_000",
            "٤٢",
            "4*",
            "",
            str(2**64),
            str(-(2**63) - 1),
            "9" * 5000,
        ],
    )
    def test_an_integer_is_needed(self, refuse, argument):
        refuse(f"i='{argument}'", "which is not an integer")

    @pytest.mark.parametrize("argument", ["x", "nan", "inf", "1_0", "1e", "1 ", "1,5", "٤"])
    def test_a_number_is_needed(self, refuse, argument):
        refuse(f"f='{argument}'", "which is not a number")

    def test_names_of_integers_are_case_sensitive(self, refuse):
        refuse("code=high", "which is not an integer or one of LOW, HIGH")


class TestEnums:
    def test_a_name_is_compared(self, matches):
        assert matches("e=RED", e="RED")
        assert matches("e:RED", e="RED")
        assert matches("e!=BLUE", e="RED")
        assert matches("e=(BLUE OR RED)", e="RED")
        assert matches("e=NONE", e="NONE")

    def test_the_default_is_not_present(self, matches):
        assert matches("e:*", e="RED")
        assert not matches("e:*", e="NONE")

    @pytest.mark.assertion(106)
    @pytest.mark.parametrize("argument", ["GREEN", "red", "1", "RE*", "''"])
    def test_an_unknown_name_is_refused(self, refuse, argument):
        refuse(f"e={argument}", "which is not one of 'NONE, RED, BLUE'")

    def test_there_is_no_order(self, refuse):
        refuse("e>RED", "'e' is an enum, which has no '>'")


class TestTypeUrls:
    @pytest.mark.parametrize(
        ("written", "expected"),
        [
            ("url=type.googleapis.com/a.b.C", True),
            ("url='type.googleapis.com/a.b.C'", True),
            ("url:type.googleapis.com/a.b.C", True),
            ("url=a.b.C", True),
            ("url=*.C", True),
            ("url=example.com/a.b.C", False),
            ("url=b.C", False),
            ("url=C", False),
            ("url!=a.b.C", False),
            ("url!=a.b.D", True),
            ("url:*", True),
        ],
    )
    def test_the_full_url_or_the_full_name_is_compared(self, matches, written, expected):
        assert matches(written, url="type.googleapis.com/a.b.C") is expected

    def test_there_is_no_order(self, refuse):
        refuse("url<a.b.C", "'url' is a type URL, which has no '<'")
