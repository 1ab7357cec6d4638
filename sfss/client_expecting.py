"""Asks a gateway whether it would take a file, before there are any bytes of it (RFC 9110, 10.1.1).

What is asked waits for an invitation to go on with its body, and goes away instead.
"""

import asyncio
import ssl
from typing import Final

from sfss.client_errors import ClientError, Unreachable
from sfss.client_text import Server, error_of
from sfss.http_text import BadResponse, Head, ResponseParser

_REFUSALS: Final = frozenset({400, 401, 403, 413, 414, 507})
"""Statuses that are about the head of a request. Any other may be another one a moment later."""

_INVITED_WITHIN_S: Final = 5.0
"""Who knows nothing of invitations waits for the body."""

_SENTENCE_LIMIT: Final = 65_536


async def refusal(server: Server, head: bytes, path: str) -> ClientError | None:
    """Return how ``server`` refuses ``head``, that of a request about ``path`` with the field
    ``Expect: 100-continue``; None where it does not. Raises ``Unreachable`` where it does not tell.
    """
    try:
        async with asyncio.timeout(_INVITED_WITHIN_S):
            found, said = await _first_words(server, head)
    except (OSError, UnicodeError) as error:  # TimeoutError is one
        reason = str(error) or "it does not say in time whether it takes it"
        raise Unreachable(f"{path}: {server.origin} gives no answer: {reason}") from None
    if found is None or found.status not in _REFUSALS:
        return None
    return error_of(found, said, path)


async def _first_words(server: Server, head: bytes) -> tuple[Head | None, bytes]:
    """Return the answer to ``head``; no head of it where that is an invitation, or malformed."""
    tls = ssl.create_default_context() if server.scheme == "https" else None
    reader, writer = await asyncio.open_connection(server.host, server.port, ssl=tls)
    parser, said = ResponseParser(), b""
    try:
        writer.write(head)
        while not parser.complete and len(said) < _SENTENCE_LIMIT:
            piece = await reader.read(_SENTENCE_LIMIT)
            if not piece:
                break
            said += parser.feed(piece)
    except BadResponse:
        return None, b""
    finally:
        writer.transport.abort()
    if parser.head is None:
        raise ConnectionError("it closed the connection")
    return parser.head, said
