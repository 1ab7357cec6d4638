"""What is refused of a request before a face sees it: a head that is too large, an end that is not
certain.
"""

from typing import Final

from aiohttp import HttpVersion10, HttpVersion11, web

from sfss.http_text import is_host
from sfss.web import http

_VERSIONS: Final = (HttpVersion10, HttpVersion11)


def too_large_head(limit: int) -> str:
    """Return what is said of a request that has more than ``limit`` bytes before its body."""
    return f"the request has more than {limit} bytes before its body (limits.head_bytes)"


def refuse_large_head(request: web.BaseRequest, limit: int) -> http.Answer | None:
    """Return a refusal that closes the connection when ``request`` has more than ``limit`` bytes
    before its body.
    """
    fields = request._message.raw_headers
    size = len(request.raw_path) + sum(len(name) + len(value) + 4 for name, value in fields)
    if size <= limit:
        return None
    answer = http.refuse(request, 431, too_large_head(limit))
    answer.force_close()
    return answer


def refuse_framing(request: web.BaseRequest) -> http.Answer | None:
    """Return a refusal that closes the connection when it is not certain where ``request`` ends,
    or for whom it is.

    A server before us may see another end, and what we take for the next request in its body
    (RFC 9112, 11.2).
    """
    coding = request.headers.get("Transfer-Encoding")
    if request.version not in _VERSIONS:
        speak_newest(request)
        answer = http.refuse(request, 505, "HTTP/1.1 and HTTP/1.0 are understood")
    elif not is_host(request.headers.get("Host", "")):
        answer = http.refuse(request, 400, "malformed request: its Host is none")
    elif coding is not None and (coding.lower() != "chunked" or request.version < HttpVersion11):
        sentence = "no Transfer-Encoding is understood but chunked, in HTTP/1.1"
        answer = http.refuse(request, 400, f"malformed request: {sentence}")
    else:
        return None
    answer.force_close()
    return answer


def speak_newest(request: web.BaseRequest) -> None:
    """Have ``request`` answered in HTTP/1.1, whatever its version: RFC 9112, 2.3 wants the highest
    that is served, and aiohttp takes that of the request.
    """
    request._cache["version"] = HttpVersion11
