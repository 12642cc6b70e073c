"""Requests for a page of operations, whatever is to be done with it."""

import logging
from collections.abc import Callable

from outlast.domain.errors import InvalidArgumentError
from outlast.domain.filter import compile_filter, conditions, operation_schema, parse
from outlast.domain.listing import Conditions, Cursor, ListQuery
from outlast.domain.names import EVERY_PARENT
from outlast.domain.operation import Operation
from outlast.engine.engine import Engine
from outlast.rpc.codec import Codec
from outlast.rpc.metadata_schema import metadata_schema
from outlast.rpc.page_tokens import PageTokens

_log = logging.getLogger(__name__)

DEFAULT_PAGE_SIZE = 50
MAX_PAGE_SIZE = 1000

DEAD_LETTERS = "dead_letter = true"
"""The filter that finds the dead letters, and nothing else."""

Matches = Callable[[Operation], bool]


class Queries:
    """Reads filters, sizes and tokens of pages, and seals the tokens of the next ones.

    A token is good for the texts that it is bound to.
    """

    def __init__(self, engine: Engine, codec: Codec) -> None:
        self._engine = engine
        self._codec = codec
        self._tokens = PageTokens(engine.store.secret)

    def query(
        self,
        parent: str,
        filter_: str,
        page_size: int,
        page_token: str,
        *bound: str,
        parent_field: str = "name",
    ) -> tuple[ListQuery, Matches | None]:
        """Return what a store is asked for, and what its records must meet besides.

        EVERY_PARENT, which came in `parent_field`, goes with filters that only a dead letter
        can meet: no store reads everything. Raises InvalidArgumentError,
        InvalidPageTokenError and InvalidFilterError.
        """
        if page_size < 0:
            raise InvalidArgumentError("page_size", "must not be negative")
        after = self._tokens.open(page_token, *bound) if page_token else None
        matches, pushed = self._filter(filter_)
        size = min(page_size or DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE)
        if parent != EVERY_PARENT:
            return ListQuery(parent, size, after, pushed), matches
        if pushed.dead_letter is not True:
            raise InvalidArgumentError(
                parent_field, f"'-', every parent, is supported with `{DEAD_LETTERS}` only"
            )
        return ListQuery(None, size, after, pushed), matches

    def next_page_token(self, after: Cursor | None, *bound: str) -> str:
        """Return the token of the page after a cursor; empty if there is no cursor."""
        return self._tokens.seal(after, *bound) if after else ""

    def _filter(self, text: str) -> tuple[Matches | None, Conditions]:
        if not text.strip():
            return None, Conditions()
        expression = parse(text)
        types = (method.metadata_type for method in self._engine.methods.values())
        schema = operation_schema(metadata_schema(types, self._codec))
        return _tolerant(compile_filter(expression, schema)), conditions(expression)


def _tolerant(matches: Matches) -> Matches:
    """Return a filter that no record, whatever is wrong with it, makes fail."""

    def match(operation: Operation) -> bool:
        try:
            return matches(operation)
        except Exception:  # noqa: BLE001  # it must hide no other
            _log.exception("operation %r cannot be filtered", operation.name)
            return False

    return match
