"""Every limit of the imaging service. The proto states them for callers."""

from typing import Final

MAX_PHOTO_BYTES: Final = 64 * 2**20
"""The size of a photograph's file."""

MAX_PHOTO_PIXELS: Final = 80_000_000
"""Width by height of a photograph, as its header states them.

Fewer than what makes Pillow itself warn, and 240 MB decoded.
"""

MAX_DERIVATIVES: Final = 16
"""How many derivatives one request may ask for."""

MAX_DERIVATIVE_EDGE: Final = 8192
"""The width and the height of a derivative, in pixels."""

DEFAULT_QUALITY: Final = 82
"""What a lossy format is encoded with if the request does not say."""

MAX_IMPORT_PHOTOS: Final = 1000
"""How many photographs one import may find in its folder."""

MAX_TOLD_FAILURES: Final = 200
"""How many failed photographs an import tells one by one; metadata must stay small."""

MAX_PROCESS_TRIES: Final = 3
"""How often an import tries a photograph that takes its process down."""

MAX_TOLD_NAME_BYTES: Final = 80
"""How much of a photograph's name is told with its failure."""

MAX_ID_LENGTH: Final = 128
"""The length of the last segment of a name."""

DEFAULT_PAGE_SIZE: Final = 50
"""How many images a page has if the request does not say."""

MAX_PAGE_SIZE: Final = 500
"""How many images a page has at most."""

CHUNK_BYTES: Final = 256 * 2**10
"""How many bytes of a download go into one message."""
