"""Text as it may be shown: what came over the wire must not steer a terminal."""

import json
from typing import Any


def printable(text: str) -> str:
    """Return text on one line, without the characters that control a terminal.

    That includes those that turn the direction of writing around.
    """
    return "".join(_shown(character) for character in text).strip()


def json_text(document: Any, *, indent: int | None = None) -> str:
    """Return JSON in which every character that is not printable is escaped."""
    text = json.dumps(document, ensure_ascii=False, indent=indent)
    return "".join(
        character if character.isprintable() or character == "\n" else json.dumps(character)[1:-1]
        for character in text
    )


def _shown(character: str) -> str:
    if character.isprintable():
        return character
    return " " if character.isspace() else ""
