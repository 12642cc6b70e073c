"""The addresses of databases, for persons."""

import re
from urllib.parse import SplitResult, parse_qs, urlsplit

_KEYWORD = re.compile(r"(?:^|\s)(?:host|hostaddr|dbname|user|password|passfile|service)\s*=")


def is_conninfo(text: str) -> bool:
    """Whether a text is what libpq takes besides URLs: `host=… password=…`."""
    return _KEYWORD.search(text) is not None


def described(url: str) -> str:
    """Return where a URL leads, without a password and whatever else it may hold.

    One in which that cannot be told from a password is cut after its scheme.
    """
    unclear = f"{url.partition('://')[0]}://…"
    try:
        parts = urlsplit(url)
        host, port, user = parts.hostname, parts.port, parts.username
    except ValueError:  # the port is no number: it may be a password
        return unclear
    if _may_show_a_password(url, parts):
        return unclear
    host = host or ",".join(parse_qs(parts.query).get("host", []))
    place = f"{user}@" if user else ""
    place += f"[{host}]" if ":" in host else host
    place += f":{port}" if port else ""
    return f"{parts.scheme}://{place}{parts.path}"


def _may_show_a_password(url: str, parts: SplitResult) -> bool:
    """Whether there is what libpq may take for a password, and `urlsplit` for something else.

    To libpq, the characters # and ? may be in one, and the first @ ends it.
    """
    after_authority = url.partition("://")[2][len(parts.netloc) :]
    return (
        "#" in url
        or "@" in after_authority
        or "=" in parts.netloc.rpartition("@")[2] + parts.path
        or parts.netloc.count("@") > 1
        or (parts.port is not None and after_authority.startswith("?"))
    )
