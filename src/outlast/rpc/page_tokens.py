"""Page tokens: opaque, tamper-proof, and good for one query only (AIP-158)."""

import hashlib
import hmac
import os
import struct
from base64 import urlsafe_b64decode, urlsafe_b64encode
from datetime import UTC, datetime, timedelta

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from outlast.domain.errors import InvalidPageTokenError
from outlast.domain.listing import Cursor

_VERSION = b"\x01"
_NONCE_BYTES = 12
_MAX_TOKEN_LENGTH = 4096
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


class PageTokens:
    """Seals cursors with a key made from a secret that all servers of a store share."""

    def __init__(self, secret: bytes) -> None:
        self._cipher = AESGCM(hmac.digest(secret, b"outlast page tokens", "sha256"))

    def seal(self, cursor: Cursor, *query: str) -> str:
        """Return a URL-safe token for the page after a cursor of a query."""
        nonce = os.urandom(_NONCE_BYTES)
        micros = (cursor.create_time - _EPOCH) // _MICROSECOND
        sealed = self._cipher.encrypt(
            nonce, struct.pack(">q", micros) + cursor.name.encode(), _digest(query)
        )
        return urlsafe_b64encode(_VERSION + nonce + sealed).rstrip(b"=").decode()

    def open(self, token: str, *query: str) -> Cursor:
        """Return the cursor; raise InvalidPageTokenError unless it was sealed for the query."""
        if len(token) > _MAX_TOKEN_LENGTH:
            raise InvalidPageTokenError
        try:
            raw = urlsafe_b64decode(token.encode("ascii") + b"=" * (-len(token) % 4))
            start = len(_VERSION) + _NONCE_BYTES
            as_issued = urlsafe_b64encode(raw).rstrip(b"=").decode() == token
            if raw[: len(_VERSION)] != _VERSION or len(raw) < start or not as_issued:
                raise InvalidPageTokenError
            nonce = raw[len(_VERSION) : start]
            text = self._cipher.decrypt(nonce, raw[start:], _digest(query))
        except (ValueError, InvalidTag) as error:
            raise InvalidPageTokenError from error
        (micros,) = struct.unpack(">q", text[:8])
        return Cursor(_EPOCH + timedelta(microseconds=micros), text[8:].decode())


def _digest(query: tuple[str, ...]) -> bytes:
    """Return what binds a token to a query; lengths keep its parts apart."""
    digest = hashlib.sha256()
    for part in query:
        encoded = part.encode()
        digest.update(struct.pack(">q", len(encoded)) + encoded)
    return digest.digest()
