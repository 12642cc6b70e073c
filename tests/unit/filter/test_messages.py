"""What can be reached in messages, lists and maps, and what is not there."""

import pytest

from outlast.domain.errors import InvalidFilterError
from outlast.domain.filter import (
    Field,
    FixedSchema,
    Kind,
    Message,
    Scalar,
    UnionSchema,
    compile_filter,
    parse,
)

STRING, INT = Scalar(Kind.STRING), Scalar(Kind.INT)


class TestMessages:
    def test_presence(self, matches):
        assert matches("m:*", m={})
        assert not matches("m:*")
        assert matches("opaque:*", opaque=b"x")

    def test_a_field_is_present_if_it_has_a_non_default_value(self, matches):
        assert matches("m:s", m={"s": "x"})
        assert matches("m.s:*", m={"s": "x"})
        assert not matches("m:s", m={"s": ""})
        assert not matches("m:s", m={})
        assert matches("m:deep", m={"deep": {}})
        assert matches("m.deep:x", m={"deep": {"x": "1"}})

    @pytest.mark.assertion(108)
    @pytest.mark.parametrize("operator", ["=", "!=", "<", ">", "<=", ">=", ":"])
    def test_nothing_matches_through_an_unset_message(self, matches, operator):
        for record in ({}, {"m": {}}):
            assert not matches(f"m.deep.x{operator}z", **record)
        assert matches('m.deep.x != "z"', m={"deep": {"x": ""}})
        assert matches("NOT m.deep.x=z")

    @pytest.mark.parametrize("operator", ["=", "!=", "<"])
    def test_messages_are_not_compared(self, refuse, operator):
        refuse(f"m{operator}x", f"'m' is a message, which takes ':' only, not '{operator}'")

    @pytest.mark.assertion(106)
    @pytest.mark.parametrize(
        ("written", "description"),
        [
            ("zz=1", "there is no field 'zz' (at character 1)"),
            ("m.zz=1", "there is no field 'm.zz' (at character 1)"),
            ("m:zz", "there is no field 'm.zz' (at character 1)"),
            ("m.zz.s=1", "there is no field 'm.zz' (at character 1)"),
            ("rm.deep:zz", "there is no field 'rm.deep.zz'"),
            ("by_number.7.zz=1", "there is no field 'by_number.7.zz'"),
            ("m.deep.x.y=1", "'y' is not in a message or map: 'm.deep.x.y'"),
            ("opaque.a=1", "there is no field 'opaque.a'"),
            ("1 > 0", "there is no field '1'"),
            ("B=true", "there is no field 'B'"),
            ("b=true AND " + "z" * 5000 + "=1", "there is no field 'zzz"),
            ("i='" + "z" * 5000 + "'", "which is not an integer"),
            ("NOT (b=true OR zz=1)", "there is no field 'zz'"),
        ],
    )
    def test_an_unknown_field_is_refused(self, refuse, written, description):
        refuse(written, description)


class TestRepeated:
    def test_has_an_element(self, matches):
        assert matches("r:a", r=["b", "a"])
        assert matches("r:a*", r=["b", "abc"])
        assert not matches("r:a", r=["b"])
        assert matches("numbers:42", numbers=[1, 42])
        assert matches("r:(a b)", r=["b", "a"])
        assert not matches("r:(a c)", r=["b", "a"])

    def test_presence_is_to_have_any(self, matches):
        assert matches("r:*", r=[""])
        assert not matches("r:*", r=[])
        assert not matches("r:*")

    def test_has_an_element_with_a_field(self, matches):
        assert matches("rm.i:42", rm=[{"i": 1}, {"i": 42}])
        assert not matches("rm.i:42", rm=[{"i": 1}, {}])
        assert matches("rm.s:*", rm=[{"s": ""}, {"s": "x"}])
        assert matches("rm:s", rm=[{"s": "x"}])
        assert matches("rm.tags:x", rm=[{"tags": ["y"]}, {"tags": ["x"]}])
        assert matches("rm.deep.x:y", rm=[{"deep": {"x": "y"}}])

    @pytest.mark.parametrize("written", ["r=a", "r!=a", "rm.i=42", "numbers>1", "rm.deep.x!=y"])
    def test_no_other_operator_goes_through_it(self, refuse, written):
        refuse(written, "is a repeated field or in one, which takes ':' only")

    @pytest.mark.parametrize("written", ["r.0:a", "rm.0.i:42", "numbers:x", "rm.zz:1"])
    def test_elements_have_no_numbers_and_have_types(self, refuse, written):
        refuse(written, "")


class TestMaps:
    def test_has_a_key(self, matches):
        assert matches("map:foo", map={"foo": 0})
        assert matches("map.foo:*", map={"foo": 0})
        assert not matches("map:foo", map={"bar": 1})
        assert not matches("map.foo:*", map={"bar": 1})
        assert matches("map:'f*'", map={"foo": 0})
        assert matches("by_number:7", by_number={7: {}})

    def test_presence_is_to_have_any(self, matches):
        assert matches("map:*", map={"": 0})
        assert not matches("map:*", map={})

    def test_a_value_is_compared(self, matches):
        assert matches("map.foo:42", map={"foo": 42})
        assert matches("map.foo = 42", map={"foo": 42})
        assert matches("map.foo > 1", map={"foo": 42})
        assert matches("map.'a key' = 1", map={"a key": 1})
        assert matches("by_number.7.s = x", by_number={7: {"s": "x"}})
        assert matches("by_number.7:s", by_number={7: {"s": "x"}})

    def test_an_absent_key_matches_nothing(self, matches):
        assert not matches("map.foo != 42", map={"bar": 1})
        assert not matches("map.foo < 42")

    def test_a_name_in_the_path_has_no_wildcards(self, matches):
        assert not matches("map.f* = 42", map={"foo": 42})

    def test_keys_and_values_have_types(self, refuse):
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
        return compile_filter(parse(written), schema)(record)

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
        with pytest.raises(InvalidFilterError, match=r"there is no field 'any\.zz'"):
            self.matches("any.zz = 1", {"type": "A"})
        with pytest.raises(InvalidFilterError, match="not in a message or map"):
            self.matches("any.x.y = 1", {"type": "A"})
