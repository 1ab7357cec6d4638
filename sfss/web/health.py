"""``GET /health/live`` and ``/health/ready``: for whoever decides what to restart, and whom to ask.

A process that is alive and not ready needs no restart: its stores do, or it is about to end.
"""

from aiohttp import web

from sfss.grants import LIST
from sfss.web import http


async def live(site: http.Site, request: web.BaseRequest) -> http.Answer:
    """Answer 200: whoever can, is alive."""
    return http.json_answer({"alive": True})


async def ready(site: http.Site, request: web.BaseRequest) -> http.Answer:
    """Answer 200 if requests can be served, else 503; and how each store is, and why, to those who
    may see where stores are.
    """
    health = await site.readiness.health(site.cluster)
    why = "this process is about to end" if site.readiness.draining else health.lacking
    stores = {address: failure or "ok" for address, failure in health.stores.items()}
    document: dict[str, object] = {"ready": not why}
    if request[http.GRANT].allows(LIST, None):
        document["stores"] = stores
        if why:
            document["error"] = why
    return http.json_answer(document, 503 if why else 200, {"Cache-Control": "no-store"})
