"""Signed URLs: whoever has one may GET, or PUT, one file, until a moment. Pure.

Three arguments are added to the query of a URL::

    expires=SECONDS&key=NAME&signature=SIGNATURE

SECONDS is the moment, in seconds since 1970. SIGNATURE is the HMAC-SHA256 (RFC 2104), under the
secret of the key NAME, of five lines joined by a line feed, in base64url without padding (RFC 4648,
5)::

    sfss1
    METHOD
    PATH
    SECONDS
    NAME

METHOD is GET, which is good for HEAD, too, or PUT. PATH is that of the file as it is stored, not
quoted: no path has a line feed, so no two requests have the same lines. It is signed, and not the
URL, so that a file has one signature, whichever way it is asked for, and nothing is to be agreed on
about the order and the quoting of what else stands in a URL.
"""

import hmac
import re
from base64 import urlsafe_b64encode
from collections.abc import Mapping
from typing import Final, NamedTuple

METHODS: Final = ("GET", "PUT")

ARGUMENTS: Final = ("expires", "key", "signature")
"""The arguments of the query, in the order of ``Claim``."""

_VERSION: Final = "sfss1"
_SECONDS: Final = re.compile("[0-9]{1,12}")


class BadSignature(Exception):
    """Raised when a signature does not allow a request; the text says why, for a person."""


class Signed(NamedTuple):
    """What is signed: a ``method`` and the ``path`` of a file, until ``expires_s`` (seconds since
    1970), by the key ``name``.
    """

    method: str
    path: str
    expires_s: int
    name: str

    @property
    def text(self) -> bytes:
        """The five lines."""
        lines = (_VERSION, self.method, self.path, str(self.expires_s), self.name)
        return "\n".join(lines).encode()


class Claim(NamedTuple):
    """What the query of a URL says: the three arguments, None for those that are missing."""

    expires: str | None
    name: str | None
    signature: str | None


def signature_of(signed: Signed, secret: bytes) -> str:
    """Return the signature."""
    return urlsafe_b64encode(hmac.digest(secret, signed.text, "sha256")).decode().rstrip("=")


def query_of(signed: Signed, secret: bytes) -> str:
    """Return the arguments to be added to the query of a URL."""
    signature = signature_of(signed, secret)
    return f"expires={signed.expires_s}&key={signed.name}&signature={signature}"


def check(claim: Claim, method: str, path: str, keys: Mapping[str, bytes], now_s: float) -> str:
    """Return the name of the key with which a request for ``path`` was signed, as ``claim`` says.

    Raises ``BadSignature`` where it was not, or is too late. That is looked at last: whoever has
    not the key learns of no moment that is good.
    """
    if claim.expires is None or claim.name is None or claim.signature is None:
        raise BadSignature("a signed URL has expires, key and signature")
    secret = keys.get(claim.name)
    if secret is None:
        raise BadSignature("the key that signed this URL is not known")
    if not _SECONDS.fullmatch(claim.expires):
        raise BadSignature("expires is not a number of seconds")
    signed = Signed("GET" if method == "HEAD" else method, path, int(claim.expires), claim.name)
    if str(signed.expires_s) != claim.expires:
        raise BadSignature("expires is not a number of seconds")
    expected = signature_of(signed, secret).encode()
    if not hmac.compare_digest(expected, claim.signature.encode("utf-8", "surrogateescape")):
        raise BadSignature("the signature is not that of this method and path")
    if now_s >= signed.expires_s:
        raise BadSignature("this URL has expired")
    return claim.name
