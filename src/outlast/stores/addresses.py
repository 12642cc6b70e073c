"""The addresses of databases, for persons."""

from urllib.parse import parse_qs, urlsplit


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
    if "@" in parts.path:  # what comes before it may be one, too
        return unclear
    host = host or ",".join(parse_qs(parts.query).get("host", []))
    place = f"{user}@" if user else ""
    place += f"[{host}]" if ":" in host else host
    place += f":{port}" if port else ""
    return f"{parts.scheme}://{place}{parts.path}"
