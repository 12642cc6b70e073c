"""The protocol's assertions about a server, 1 to 120: each is shown by a test, or explained here.

A test that shows one is marked `@pytest.mark.assertion(number, …)`. Of 15 the missing
target is shown; its other half, the missing permission, waits for authentication.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

TESTS = Path(__file__).parents[1]
EXPLAINED = {
    26: "no request of the services here has an etag",
    36: "there is no authentication yet: all operations belong to one principal",
    37: "there is no authentication yet: no credentials are asked for",
    72: "there is no authentication yet: nobody lacks a permission",
    111: "return_partial_success is not supported, which 110 shows",
}


def marked(path: Path) -> Iterator[int]:
    """Yield the numbers in the markers of a file of tests."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "pytest.mark.assertion":
            yield from (each.value for each in node.args if isinstance(each, ast.Constant))


def test_every_assertion_is_shown_or_explained():
    shown = {number for path in TESTS.rglob("test_*.py") for number in marked(path)}
    assert shown | set(EXPLAINED) == set(range(1, 121))
    assert not shown & set(EXPLAINED)
