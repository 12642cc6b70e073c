"""From characters to tokens."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum, auto

from outlast.domain.filter.syntax import Text, invalid, shown

KEYWORDS = frozenset({"AND", "OR", "NOT"})

# Every alternative begins with characters of its own and none can match in two
# ways, so the time is linear in the length.
_TOKEN = re.compile(
    r"""
      (?P<SPACE>    \s+ )
    | (?P<STRING>   "[^"\\]*(?:\\.[^"\\]*)*" | '[^'\\]*(?:\\.[^'\\]*)*' )
    | (?P<OPERATOR> <= | >= | != | [<>=:] )
    | (?P<DOT>      \. )
    | (?P<COMMA>    , )
    | (?P<LEFT>     \( )
    | (?P<RIGHT>    \) )
    | (?P<TEXT>     [^\s.,()<>=!:"']+ )
    """,
    re.VERBOSE | re.DOTALL,
)
_STRING_PART = re.compile(r"(?P<plain>[^\\*]+)|(?P<wildcard>\*)|\\(?P<escaped>.)", re.DOTALL)
_ESCAPES = {
    '"': '"',
    "'": "'",
    "\\": "\\",
    "*": "*",
    "n": "\n",
    "r": "\r",
    "t": "\t",
}


class TokenKind(Enum):
    """What a token is."""

    TEXT = auto()
    STRING = auto()
    KEYWORD = auto()
    OPERATOR = auto()
    DOT = auto()
    COMMA = auto()
    LEFT = auto()
    RIGHT = auto()
    END = auto()


@dataclass(frozen=True, slots=True)
class Token:
    """A piece of a filter; `spaced` if white space stands before it."""

    kind: TokenKind
    text: str
    position: int
    spaced: bool = False

    def is_keyword(self, keyword: str) -> bool:
        """Whether the token is this keyword."""
        return self.kind is TokenKind.KEYWORD and self.text == keyword

    def value(self) -> Text:
        """Return what a text, string or keyword says; raise on an unknown escape."""
        if self.kind is not TokenKind.STRING:
            return Text(tuple(self.text.split("*")), self.position)
        pieces = [""]
        for part in _STRING_PART.finditer(self.text, 1, len(self.text) - 1):
            if part["wildcard"]:
                pieces.append("")
            elif part["plain"]:
                pieces[-1] += part["plain"]
            elif part["escaped"] in _ESCAPES:
                pieces[-1] += _ESCAPES[part["escaped"]]
            else:
                raise invalid(
                    f"unknown escape {shown(part[0])} in a string; "
                    r"""known are \\ \" \' \* \n \r \t""",
                    self.position + part.start(),
                )
        return Text(tuple(pieces), self.position)

    def __str__(self) -> str:
        return "the end" if self.kind is TokenKind.END else shown(self.text)


def tokenize(text: str) -> Iterator[Token]:
    """Yield the tokens of a filter, END as the last one; raise InvalidFilterError."""
    position = 0
    spaced = False
    while position < len(text):
        found = _TOKEN.match(text, position)
        if found is None:
            raise _no_token(text, position)
        if found.lastgroup == "SPACE":
            spaced = True
        else:
            yield text_token(found[0], position, TokenKind[str(found.lastgroup)], spaced=spaced)
            spaced = False
        position = found.end()
    yield Token(TokenKind.END, "", position, spaced)


def text_token(
    text: str, position: int, kind: TokenKind = TokenKind.TEXT, *, spaced: bool
) -> Token:
    """Return a token; a text that is a keyword becomes one."""
    if kind is TokenKind.TEXT and text in KEYWORDS:
        kind = TokenKind.KEYWORD
    return Token(kind, text, position, spaced)


def _no_token(text: str, position: int) -> Exception:
    if text[position] == "!":
        return invalid("'!' is only known in '!='; to negate, use NOT or '-'", position)
    return invalid("a string begins here and does not end", position)
