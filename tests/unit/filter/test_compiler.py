"""What restrictions mean for each type of field, clause by clause of AIP-160."""

import fnmatch
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outlast.domain.errors import InvalidFilterError
from outlast.domain.filter import (
    Enumeration,
    Field,
    FixedSchema,
    Kind,
    Map,
    Message,
    Repeated,
    Scalar,
    UnionSchema,
    compile_filter,
    parse,
)


def of(name, type_):
    return name, Field(type_, lambda record: record.get(name))


STRING, INT = Scalar(Kind.STRING), Scalar(Kind.INT)
INNER = FixedSchema(
    dict(
        [
            of("s", STRING),
            of("i", INT),
            of("tags", Repeated(STRING)),
            of("deep", Message(FixedSchema(dict([of("x", STRING)])))),
        ]
    )
)


@dataclass(frozen=True)
class Searchable(UnionSchema):
    members: tuple = field(
        default=(
            FixedSchema(
                dict(
                    [
                        of("b", Scalar(Kind.BOOL)),
                        of("i", INT),
                        of("code", Scalar(Kind.INT, {"LOW": 1, "HIGH": 9})),
                        of("f", Scalar(Kind.FLOAT)),
                        of("s", STRING),
                        of("t", Scalar(Kind.TIMESTAMP)),
                        of("d", Scalar(Kind.DURATION)),
                        of("url", Scalar(Kind.TYPE_URL)),
                        of("e", Enumeration(("NONE", "RED", "BLUE"), default="NONE")),
                        of("m", Message(INNER)),
                        of("opaque", Message(FixedSchema())),
                        of("r", Repeated(STRING)),
                        of("numbers", Repeated(INT)),
                        of("rm", Repeated(Message(INNER))),
                        of("map", Map(STRING, INT)),
                        of("by_number", Map(INT, Message(INNER))),
                    ]
                )
            ),
        )
    )

    def texts(self, record):
        return record.get("texts", ())


SCHEMA = Searchable()


def matches(written, **record):
    return compile_filter(parse(written), SCHEMA)(record)


def refuse(written, description):
    with pytest.raises(InvalidFilterError) as caught:
        compile_filter(parse(written), SCHEMA)
    assert description in caught.value.description
    assert "at character" in caught.value.description
    assert len(caught.value.message) < 400


def test_an_empty_filter_matches_everything():
    assert matches("")


class TestLogic:
    @pytest.mark.parametrize(
        ("written", "expected"),
        [
            ("b=true AND i=1", True),
            ("b=true AND i=2", False),
            ("b=true i=2", False),
            ("b=false OR i=1", True),
            ("b=false OR i=2", False),
            ("NOT b=false", True),
            ("-b=true", False),
            ("-(b=false OR i=2)", True),
            # (true AND (false OR false)); with the other precedence it would be true.
            ("i=2 AND i=1 OR b=true", False),
            ("i=1 OR i=2 AND i=3", False),
            ("i=(2 OR 1)", True),
            ("i=(2 OR -1)", False),
            ("i=(NOT 2)", True),
        ],
    )
    def test_operators_combine(self, written, expected):
        assert matches(written, b=True, i=1) is expected


class TestLiterals:
    @pytest.mark.parametrize(
        ("written", "expected"),
        [
            ("hugo", True),
            ("HUGO", True),
            ("Victor Hugo", True),
            ("Hugo Victor", True),
            ('"Hugo Victor"', False),
            ('"victor hugo"', True),
            ("v*r", True),
            ("r*v", False),
            ("*", True),
            ("-hugo", False),
            ("1802-26.2", True),
            ("STRASSE", True),
            ("nothing", False),
        ],
    )
    def test_a_bare_literal_is_found_anywhere_in_the_searched_texts(self, written, expected):
        assert matches(written, texts=["Victor Hugo", "1802-26.2", "Straße"]) is expected

    def test_a_bare_field_name_is_a_literal(self):
        assert not matches("b", b=True, texts=["x"])
        assert not matches("m.s", m={"s": "x"}, texts=[])


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
    def test_operators(self, written, expected):
        assert matches(written, s="a.foo") is expected

    def test_the_empty_string_is_equal_to_itself_and_not_present(self):
        assert matches('s=""', s="")
        assert matches("s=*", s="")
        assert not matches("s:*", s="")
        assert not matches("s=a*a", s="a")

    @given(st.text("ab*", max_size=8), st.text("ab", max_size=10))
    def test_wildcards_are_those_of_the_shell(self, pattern, value):
        assert matches(f"s='{pattern}'", s=value) is fnmatch.fnmatchcase(value, pattern)

    def test_many_wildcards_take_no_time(self):
        assert not matches("s='" + "a*" * 3000 + "b'", s="a" * 100_000)


class TestBooleans:
    @pytest.mark.parametrize("operator", ["=", ":"])
    def test_equality(self, operator):
        assert matches(f"b{operator}true", b=True)
        assert matches(f'b{operator}"true"', b=True)
        assert not matches(f"b{operator}true", b=False)
        assert matches(f"b{operator}false", b=False)

    def test_inequality_and_presence(self):
        assert matches("b!=true", b=False)
        assert matches("b:*", b=True)
        assert not matches("b:*", b=False)

    @pytest.mark.assertion(106)
    @pytest.mark.parametrize("argument", ["maybe", "True", "1", "''", "null", "tru*"])
    def test_only_true_and_false_are_booleans(self, argument):
        refuse(f"b={argument}", "which is not true or false")

    @pytest.mark.parametrize("operator", ["<", "<=", ">", ">="])
    def test_there_is_no_order(self, operator):
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
    def test_operators(self, written, expected):
        assert matches(written, i=42, f=2.5, code=9) is expected

    @pytest.mark.parametrize("edge", [-(2**63), 2**64 - 1])
    def test_signed_and_unsigned_integers_of_64_bits_are_known(self, edge):
        assert matches(f"i={edge}", i=edge)

    def test_zero_is_a_value_and_not_present(self):
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
    def test_an_integer_is_needed(self, argument):
        refuse(f"i='{argument}'", "which is not an integer")

    @pytest.mark.parametrize("argument", ["x", "nan", "inf", "1_0", "1e", "1 ", "1,5", "٤"])
    def test_a_number_is_needed(self, argument):
        refuse(f"f='{argument}'", "which is not a number")

    def test_names_of_integers_are_case_sensitive(self):
        refuse("code=high", "which is not an integer or one of LOW, HIGH")


class TestTimestamps:
    @pytest.mark.parametrize(
        ("written", "expected"),
        [
            ("t=2024-02-29T12:30:00.5Z", True),
            ('t="2024-02-29T12:30:00.500Z"', True),
            ("t=2024-02-29t12:30:00.5z", True),
            ("t=2024-02-29T07:30:00.5-05:00", True),
            ("t=2024-02-29T18:00:00.5+05:30", True),
            ("t=2024-02-29T12:30:00Z", False),
            ("t!=2024-02-29T12:30:00Z", True),
            ("t>2024-02-29T12:30:00Z", True),
            ("t<2024-02-29T12:30:00.500000001Z", True),
            ("t>=2024-02-29T12:30:00.500000001Z", False),
            ("t>'2016-12-31T23:59:60Z'", True),
            ("t>0001-01-01T00:00:00+23:59", True),
            ("t<9999-12-31T23:59:60.999999999-23:59", True),
            ("t:*", True),
        ],
    )
    def test_operators(self, written, expected):
        moment = datetime(2024, 2, 29, 12, 30, 0, 500_000, tzinfo=UTC)
        assert matches(written, t=moment) is expected
        assert matches(written, t=moment.astimezone(timezone(timedelta(hours=9)))) is expected

    def test_a_leap_second_is_the_moment_after(self):
        assert matches("t=2016-12-31T23:59:60Z", t=datetime(2017, 1, 1, tzinfo=UTC))

    @pytest.mark.assertion(106)
    @pytest.mark.parametrize(
        "argument",
        [
            "yesterday",
            "2024-02-29",
            "2024-02-29T12:30Z",
            "2024-02-29T12:30:00",
            "2024-02-29 12:30:00Z",
            "2023-02-29T12:30:00Z",
            "2024-13-01T12:30:00Z",
            "0000-01-01T00:00:00Z",
            "2024-02-29T24:00:00Z",
            "2024-02-29T12:60:00Z",
            "2024-02-29T12:30:61Z",
            "2024-02-29T12:30:00+24:00",
            "2024-02-29T12:30:00+01:60",
            "2024-02-29T12:30:00+0100",
            "2024-02-29T12:30:00.Z",
            "2024-02-29T12:30:00.0000000000Z",
            "\uff12024-02-29T12:30:00Z",
            "1709209800",
            "",
        ],
    )
    def test_anything_but_rfc_3339_is_refused(self, argument):
        refuse(f"t='{argument}'", "which is not an RFC 3339 time")

    @given(st.datetimes(timezones=st.just(UTC)), st.datetimes(timezones=st.just(UTC)))
    def test_order_is_that_of_time(self, one, other):
        written = other.isoformat().replace("+00:00", "Z")
        assert matches(f"t<{written}", t=one) is (one < other)
        assert matches(f"t={written}", t=one) is (one == other)


class TestDurations:
    @pytest.mark.parametrize(
        ("written", "expected"),
        [
            ("d=1.2s", True),
            ("d=1.200000000s", True),
            ("d<20s", True),
            ("d>1.199999999s", True),
            ("d>1.200000001s", False),
            ("d>-5s", True),
            ("d!=2s", True),
            ("d:*", True),
        ],
    )
    def test_operators(self, written, expected):
        assert matches(written, d=timedelta(seconds=1.2)) is expected

    def test_no_time_is_present(self):
        assert matches("d:*", d=timedelta())
        assert matches("d=0s", d=timedelta())

    @pytest.mark.parametrize(
        "argument", ["20", "20m", "s", "1.s", ".5s", "1.0000000000s", "1e3s", "--1s", "1 s"]
    )
    def test_seconds_are_needed(self, argument):
        refuse(f"d='{argument}'", "which is not a number of seconds")


class TestEnums:
    def test_a_name_is_compared(self):
        assert matches("e=RED", e="RED")
        assert matches("e:RED", e="RED")
        assert matches("e!=BLUE", e="RED")
        assert matches("e=(BLUE OR RED)", e="RED")
        assert matches("e=NONE", e="NONE")

    def test_the_default_is_not_present(self):
        assert matches("e:*", e="RED")
        assert not matches("e:*", e="NONE")

    @pytest.mark.assertion(106)
    @pytest.mark.parametrize("argument", ["GREEN", "red", "1", "RE*", "''"])
    def test_an_unknown_name_is_refused(self, argument):
        refuse(f"e={argument}", "which is not one of 'NONE, RED, BLUE'")

    def test_there_is_no_order(self):
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
    def test_the_full_url_or_the_full_name_is_compared(self, written, expected):
        assert matches(written, url="type.googleapis.com/a.b.C") is expected

    def test_there_is_no_order(self):
        refuse("url<a.b.C", "'url' is a type URL, which has no '<'")


class TestMessages:
    def test_presence(self):
        assert matches("m:*", m={})
        assert not matches("m:*")
        assert matches("opaque:*", opaque=b"x")

    def test_a_field_is_present_if_it_has_a_non_default_value(self):
        assert matches("m:s", m={"s": "x"})
        assert matches("m.s:*", m={"s": "x"})
        assert not matches("m:s", m={"s": ""})
        assert not matches("m:s", m={})
        assert matches("m:deep", m={"deep": {}})
        assert matches("m.deep:x", m={"deep": {"x": "1"}})

    @pytest.mark.assertion(108)
    @pytest.mark.parametrize("operator", ["=", "!=", "<", ">", "<=", ">=", ":"])
    def test_nothing_matches_through_an_unset_message(self, operator):
        for record in ({}, {"m": {}}):
            assert not matches(f"m.deep.x{operator}z", **record)
        assert matches('m.deep.x != "z"', m={"deep": {"x": ""}})
        assert matches("NOT m.deep.x=z")

    @pytest.mark.parametrize("operator", ["=", "!=", "<"])
    def test_messages_are_not_compared(self, operator):
        refuse(f"m{operator}x", f"'m' is a message, which takes ':' only, not '{operator}'")

    @pytest.mark.assertion(106)
    @pytest.mark.parametrize(
        ("written", "description"),
        [
            ("zz=1", "there is no field 'zz'"),
            ("m.zz=1", "there is no field 'zz': 'm.zz'"),
            ("m:zz", "there is no field 'zz': 'm.zz'"),
            ("m.deep.x.y=1", "'y' is not in a message or map: 'm.deep.x.y'"),
            ("opaque.a=1", "there is no field 'a'"),
            ("1 > 0", "there is no field '1'"),
            ("B=true", "there is no field 'B'"),
            ("b=true AND " + "z" * 5000 + "=1", "there is no field 'zzz"),
            ("i='" + "z" * 5000 + "'", "which is not an integer"),
            ("NOT (b=true OR zz=1)", "there is no field 'zz'"),
        ],
    )
    def test_an_unknown_field_is_refused(self, written, description):
        refuse(written, description)


class TestRepeated:
    def test_has_an_element(self):
        assert matches("r:a", r=["b", "a"])
        assert matches("r:a*", r=["b", "abc"])
        assert not matches("r:a", r=["b"])
        assert matches("numbers:42", numbers=[1, 42])
        assert matches("r:(a b)", r=["b", "a"])
        assert not matches("r:(a c)", r=["b", "a"])

    def test_presence_is_to_have_any(self):
        assert matches("r:*", r=[""])
        assert not matches("r:*", r=[])
        assert not matches("r:*")

    def test_has_an_element_with_a_field(self):
        assert matches("rm.i:42", rm=[{"i": 1}, {"i": 42}])
        assert not matches("rm.i:42", rm=[{"i": 1}, {}])
        assert matches("rm.s:*", rm=[{"s": ""}, {"s": "x"}])
        assert matches("rm:s", rm=[{"s": "x"}])
        assert matches("rm.tags:x", rm=[{"tags": ["y"]}, {"tags": ["x"]}])
        assert matches("rm.deep.x:y", rm=[{"deep": {"x": "y"}}])

    @pytest.mark.parametrize("written", ["r=a", "r!=a", "rm.i=42", "numbers>1", "rm.deep.x!=y"])
    def test_no_other_operator_goes_through_it(self, written):
        refuse(written, "is a repeated field or in one, which takes ':' only")

    @pytest.mark.parametrize("written", ["r.0:a", "rm.0.i:42", "numbers:x", "rm.zz:1"])
    def test_elements_have_no_numbers_and_have_types(self, written):
        with pytest.raises(InvalidFilterError):
            compile_filter(parse(written), SCHEMA)


class TestMaps:
    def test_has_a_key(self):
        assert matches("map:foo", map={"foo": 0})
        assert matches("map.foo:*", map={"foo": 0})
        assert not matches("map:foo", map={"bar": 1})
        assert not matches("map.foo:*", map={"bar": 1})
        assert matches("map:'f*'", map={"foo": 0})
        assert matches("by_number:7", by_number={7: {}})

    def test_presence_is_to_have_any(self):
        assert matches("map:*", map={"": 0})
        assert not matches("map:*", map={})

    def test_a_value_is_compared(self):
        assert matches("map.foo:42", map={"foo": 42})
        assert matches("map.foo = 42", map={"foo": 42})
        assert matches("map.foo > 1", map={"foo": 42})
        assert matches("map.'a key' = 1", map={"a key": 1})
        assert matches("by_number.7.s = x", by_number={7: {"s": "x"}})
        assert matches("by_number.7:s", by_number={7: {"s": "x"}})

    def test_an_absent_key_matches_nothing(self):
        assert not matches("map.foo != 42", map={"bar": 1})
        assert not matches("map.foo < 42")

    def test_a_name_in_the_path_has_no_wildcards(self):
        assert not matches("map.f* = 42", map={"foo": 42})

    def test_keys_and_values_have_types(self):
        refuse("by_number:x", "which is not an integer")
        refuse("by_number.x.s=y", "which is not an integer")
        refuse("map.foo=x", "which is not an integer")
        refuse("map=x", "'map' is a map, which takes")
        refuse("map.foo.bar=1", "is not in a message or map")


class TestUnions:
    """Records of several types, as the metadata of operations are."""

    def union(self):
        def of_type(type_, *fields):
            return FixedSchema(
                {
                    name: Field(
                        kind,
                        lambda record, name=name: (
                            record.get(name) if record["type"] == type_ else None
                        ),
                    )
                    for name, kind in fields
                }
            )

        return UnionSchema(
            (
                of_type("A", ("x", INT), ("only_a", STRING)),
                of_type("B", ("x", STRING), ("only_b", STRING)),
            )
        )

    def matches(self, written, record):
        schema = FixedSchema({"any": Field(Message(self.union()), lambda record: record)})
        searchable = Searchable((schema,))
        return compile_filter(parse(written), searchable)(record)

    def test_a_field_of_any_type_may_be_named_and_others_do_not_match(self):
        assert self.matches("any.only_a != y", {"type": "A", "only_a": "x"})
        assert not self.matches("any.only_a != y", {"type": "B", "only_b": "x"})
        assert self.matches("any.only_a = x OR any.only_b = x", {"type": "B", "only_b": "x"})

    def test_a_field_of_two_types_is_compared_as_each(self):
        assert self.matches("any.x = 042", {"type": "A", "x": 42})
        assert not self.matches("any.x = 042", {"type": "B", "x": "42"})
        assert self.matches("any.x = text", {"type": "B", "x": "text"})
        assert not self.matches("any.x = text", {"type": "A", "x": 42})
        assert self.matches("any:x", {"type": "B", "x": "text"})

    def test_what_fits_no_type_is_refused(self):
        with pytest.raises(InvalidFilterError, match="there is no field 'zz'"):
            self.matches("any.zz = 1", {"type": "A"})
        with pytest.raises(InvalidFilterError, match="not in a message or map"):
            self.matches("any.x.y = 1", {"type": "A"})
