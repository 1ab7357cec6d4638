"""The names of blobs: the digest of what they hold, or any name in small letters and digits. Pure.

A blob lies at ``blobs/``, the first two characters of its id, ``/`` and the whole id: readable in a
folder of plain files, in the order of the ids in a listing, and no file where a folder has to be.
"""

import hashlib
import re
from collections.abc import Mapping
from typing import Final

from sfss.errors import NotFound
from sfss.record import Body, pieces_of

PREFIX: Final = "blobs/"
"""What the paths of all blobs begin with."""

_ID: Final = re.compile("[a-z0-9]+")
_DIGEST: Final = re.compile("[0-9a-f]{40}|[0-9a-f]{64}")
_DIGEST_OF_LENGTH: Final[Mapping[int, str]] = {40: "sha1", 64: "sha256"}


def check_id(text: str) -> str:
    """Return ``text`` if it can be the id of a blob; raise ``NotFound`` if none can have it."""
    if not _ID.fullmatch(text):
        raise NotFound(text)
    return text


def path_of(blob_id: str) -> str:
    """Return the path of the blob ``blob_id``."""
    return f"{PREFIX}{blob_id[:2]}/{blob_id}"


def id_at(path: str) -> str | None:
    """Return the id of the blob that lies at ``path``; None where no blob does."""
    blob_id = path.rpartition("/")[2]
    return blob_id if _ID.fullmatch(blob_id) and path_of(blob_id) == path else None


def is_digest(blob_id: str) -> bool:
    """Tell whether ``blob_id`` says what the blob holds: it has the form of a digest."""
    return _DIGEST.fullmatch(blob_id) is not None


def digest_like(blob_id: str, body: Body) -> str:
    """Return the digest of ``body`` of the kind that ``blob_id`` is; errors as ``id_of``."""
    return id_of(body, _DIGEST_OF_LENGTH[len(blob_id)])


def id_of(body: Body, digest: str) -> str:
    """Return the id of ``body`` by its ``digest``, "sha1" or "sha256"; errors as ``pieces_of``."""
    # Not for secrets: who can make two bodies of one SHA-1 can upload only one of them.
    found = hashlib.new(digest, usedforsecurity=False)
    for piece in pieces_of(body):
        found.update(piece)
    return found.hexdigest()
