"""Whether a browser sends a request for a page of another origin. Pure.

A browser lets any page send a plain POST anywhere, a form say, and asks nobody before (WHATWG
Fetch, "CORS-safelisted request-header"); with it goes a password that it knows (Basic). Who asks
from within a network, or from this machine, may more than the page. So what changes something is
not done for one that ``cors.origins`` does not name.

Browsers say for whom they ask: in Sec-Fetch-Site (W3C Fetch Metadata) to loopback and over TLS, in
Origin always. No page can write either, nor X-Forwarded-Host unasked, by which a proxy that asks
under another name says the one that it was asked under.
"""

from collections.abc import Mapping
from typing import Final

from sfss.web.cors import Cors

_OWN: Final = frozenset({"same-origin", "none"})  # "none": the person, by the address or a bookmark


def is_foreign(fields: Mapping[str, str], allowed: Cors | None) -> bool:
    """Tell whether a request with the header ``fields`` is for a page of another origin, and not
    one that is ``allowed``.
    """
    origin = fields.get("Origin")
    if allowed is not None and allowed.allows(origin):
        return False
    if fields.get("Authorization", "").lower().startswith("bearer "):
        return False  # pages have to be allowed to send it: somebody in front may have done so
    if (site := fields.get("Sec-Fetch-Site")) is not None:
        return site.lower() not in _OWN
    if origin is None:
        return False  # no browser
    here = (fields.get("Host", ""), fields.get("X-Forwarded-Host", ""))
    return origin.partition("://")[2].lower() not in [host.lower() for host in here if host]
