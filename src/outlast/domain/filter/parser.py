r"""From text to an expression, by the grammar of AIP-160.

The published grammar leaves to a service what it calls TEXT, and what stands in
a string. Here:

* TEXT is any run of characters other than white space and `. , ( ) < > = ! : " '`.
* At the start of a term a `-` negates what follows it without space; in an
  argument it belongs to the text, so `-30` is a number there.
* An argument may go on after a `:`, as a time or a URL does, without quotes.
* Strings know the escapes `\\`, `\"`, `\'`, `\*` (no wildcard), `\n`, `\r`, `\t`.
* A parenthesised argument holds bare values: `state = (PENDING OR RUNNING)` means
  `state = PENDING OR state = RUNNING`. It goes with `=` and `:` only.
* There are no functions.
"""

from collections.abc import Callable

from outlast.domain.errors import InvalidFilterError
from outlast.domain.filter.syntax import (
    And,
    Expression,
    Not,
    Operator,
    Or,
    Restriction,
    Search,
    Text,
    invalid,
)
from outlast.domain.filter.tokens import Token, TokenKind, text_token, tokenize

MAX_FILTER_LENGTH = 8192
"""Characters of a filter."""
MAX_TERMS = 100
"""Restrictions and bare literals, in all."""
MAX_DEPTH = 32
"""Parentheses within parentheses."""
MAX_PATH_LENGTH = 32
"""Names in the path of a field."""


def parse(text: str) -> Expression:
    """Return what a filter says; the empty one is a conjunction of nothing.

    Takes time linear in the length. Raises InvalidFilterError, which says what is
    wrong and where, for a filter that is not in the grammar or over a limit.
    """
    if len(text) > MAX_FILTER_LENGTH:
        raise InvalidFilterError(f"has {len(text)} characters; the limit is {MAX_FILTER_LENGTH}")
    if "\0" in text:
        raise invalid("a NUL character is not allowed", text.index("\0"))
    return _Parser(text).filter()


class _Parser:
    """Recursive descent: one method for each rule of the grammar, one token ahead."""

    def __init__(self, text: str) -> None:
        self._tokens = tokenize(text)
        self._token = next(self._tokens)
        self._terms = 0
        self._depth = 0

    def filter(self) -> Expression:
        if self._at(TokenKind.END):
            return And()
        expression = self._expression()
        if not self._at(TokenKind.END):
            raise invalid("')' closes nothing", self._token.position)
        return expression

    def _expression(self) -> Expression:
        # A sequence (`a b`) means AND as well: nothing here is ranked.
        operands = [self._factor()]
        while not self._at(TokenKind.END, TokenKind.RIGHT):
            self._require_space("white space, ')' or the end")
            if self._token.is_keyword("AND"):
                self._advance()
                self._require_space("white space after AND")
            operands.append(self._factor())
        return operands[0] if len(operands) == 1 else And(tuple(operands))

    def _factor(self) -> Expression:
        operands = [self._term()]
        while self._token.is_keyword("OR"):
            self._require_space("white space before OR")
            self._advance()
            self._require_space("white space after OR")
            operands.append(self._term())
        return operands[0] if len(operands) == 1 else Or(tuple(operands))

    def _term(self) -> Expression:
        token = self._token
        if token.is_keyword("NOT"):
            self._advance()
            self._require_space("white space after NOT")
            return Not(self._simple())
        if token.kind is TokenKind.TEXT and token.text.startswith("-"):
            if token.text == "-":
                self._advance()
                self._require_no_space("'-' must touch what it negates")
            else:
                self._token = text_token(token.text[1:], token.position + 1, spaced=False)
            return Not(self._simple())
        return self._simple()

    def _simple(self) -> Expression:
        if self._at(TokenKind.LEFT):
            return self._composite()
        return self._restriction()

    def _composite(self) -> Expression:
        opening = self._advance()
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise invalid(f"more than {MAX_DEPTH} parentheses deep", opening.position)
        expression = self._expression()
        if not self._at(TokenKind.RIGHT):
            raise invalid("'(' is never closed", opening.position)
        self._advance()
        self._depth -= 1
        return expression

    def _restriction(self) -> Expression:
        first = self._token
        if first.kind is TokenKind.TEXT and first.text.startswith("-"):
            raise self._unexpected("one negation at most")
        self._count_term(first)
        member = self._member(lambda token: token.kind is TokenKind.DOT)
        if not self._at(TokenKind.OPERATOR):
            return Search(Text.join(member))
        path = tuple(each.text for each in member[::2])
        if len(path) > MAX_PATH_LENGTH:
            raise invalid(f"a path of more than {MAX_PATH_LENGTH} names", first.position)
        operator = Operator(self._advance().text)
        if self._at(TokenKind.LEFT):
            return self._composite_argument(path, operator, first.position)
        argument = Text.join(self._member(_continues_argument))
        return Restriction(path, operator, argument, first.position)

    def _composite_argument(
        self, path: tuple[str, ...], operator: Operator, position: int
    ) -> Expression:
        opening = self._token
        if operator not in {Operator.EQUALS, Operator.HAS}:
            raise invalid(
                f"an argument in parentheses goes with '=' and ':', not with '{operator}'",
                opening.position,
            )
        return _distribute(self._composite(), path, operator, position)

    def _member(self, continues: Callable[[Token], bool]) -> list[Text]:
        """Read a value and what is joined to it: values, and separators between them."""
        joined = [self._value(TokenKind.TEXT, TokenKind.STRING)]
        while continues(self._token) and not self._token.spaced:
            separator = self._advance()
            self._require_no_space(f"no white space may follow '{separator.text}'")
            joined.append(separator.value())
            joined.append(self._value(TokenKind.TEXT, TokenKind.STRING, TokenKind.KEYWORD))
        if self._at(TokenKind.LEFT) and not self._token.spaced:
            raise invalid("functions are not supported", self._token.position)
        return joined

    def _value(self, *kinds: TokenKind) -> Text:
        if not self._at(*kinds):
            raise self._unexpected("a field or a value")
        return self._advance().value()

    def _count_term(self, token: Token) -> None:
        self._terms += 1
        if self._terms > MAX_TERMS:
            raise invalid(f"more than {MAX_TERMS} terms", token.position)

    def _at(self, *kinds: TokenKind) -> bool:
        return self._token.kind in kinds

    def _advance(self) -> Token:
        token = self._token
        self._token = next(self._tokens)
        return token

    def _require_space(self, expected: str) -> None:
        if not self._token.spaced:
            raise self._unexpected(expected)

    def _require_no_space(self, rule: str) -> None:
        if self._token.spaced:
            raise invalid(rule, self._token.position - 1)

    def _unexpected(self, expected: str) -> InvalidFilterError:
        return invalid(f"found {self._token}, expected {expected}", self._token.position)


def _continues_argument(token: Token) -> bool:
    # Nothing may follow an argument without space, so a colon cannot mean anything else.
    return token.kind is TokenKind.DOT or (
        token.kind is TokenKind.OPERATOR and token.text == Operator.HAS
    )


def _distribute(
    expression: Expression, path: tuple[str, ...], operator: Operator, position: int
) -> Expression:
    """Put a field before each value of a parenthesised argument."""
    match expression:
        case Search(text):
            return Restriction(path, operator, text, position)
        case Restriction():
            raise invalid("an argument in parentheses holds values only", expression.position)
        case Not(operand):
            return Not(_distribute(operand, path, operator, position))
        case And(operands):
            return And(tuple(_distribute(each, path, operator, position) for each in operands))
        case Or(operands):
            return Or(tuple(_distribute(each, path, operator, position) for each in operands))
