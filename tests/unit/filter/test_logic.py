"""How restrictions combine, and what bare literals find."""

import pytest


def test_an_empty_filter_matches_everything(matches):
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
    def test_operators_combine(self, matches, written, expected):
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
    def test_a_bare_literal_is_found_anywhere_in_the_searched_texts(
        self, matches, written, expected
    ):
        assert matches(written, texts=["Victor Hugo", "1802-26.2", "Straße"]) is expected

    def test_a_bare_field_name_is_a_literal(self, matches):
        assert not matches("b", b=True, texts=["x"])
        assert not matches("m.s", m={"s": "x"}, texts=[])
