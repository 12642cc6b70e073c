"""What of a text is shown."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outlast.cli.text import json_text, printable


@given(st.text())
def test_printable_text_is_one_line_without_anything_that_controls_a_terminal(text):
    shown = printable(text)
    assert shown.isprintable()


@given(st.text().filter(str.isprintable))
def test_printable_text_is_left_as_it_is(text):
    assert printable(text) == text.strip()


@given(st.dictionaries(st.text(), st.text() | st.integers() | st.none()))
@pytest.mark.parametrize("indent", [None, 2])
def test_json_stays_the_same_document_and_cannot_control_a_terminal(indent, document):
    text = json_text(document, indent=indent)
    assert json.loads(text) == document
    assert text.replace("\n", "").isprintable()
