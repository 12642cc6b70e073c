"""Text as it may be shown: what came over the wire must not steer a terminal."""

import json
from datetime import datetime
from typing import Any


def printable(text: str) -> str:
    """Return text on one line, without the characters that control a terminal.

    That includes those that turn the direction of writing around.
    """
    return "".join(_shown(character) for character in text).strip()


def shown_time(moment: datetime) -> str:
    """Return a time to the second, as RFC 3339 has it with a space in the middle."""
    return moment.isoformat(sep=" ", timespec="seconds").replace("+00:00", "Z")


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
