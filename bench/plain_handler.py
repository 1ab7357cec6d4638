"""The obvious way: an aiohttp handler that asks memcached through aiomcache.

    python3 bench/plain_handler.py PORT MEMCACHED_PORT

A rival of get_memcached.py. It runs on uvloop with as many connections to memcached as sfss keeps,
so that it loses neither by the loop nor by the pool.
"""

import asyncio
import sys

import aiomcache
import uvloop
from aiohttp import web

_CONNECTIONS = 8


class PlainHandler:
    """``GET /file?path=P`` from one memcached."""

    def __init__(self, port: int) -> None:
        self._client = aiomcache.Client("127.0.0.1", port, pool_size=_CONNECTIONS)

    async def get(self, request: web.Request) -> web.Response:
        """Answer with the item, or 404."""
        body = await self._client.get(request.query["path"].encode())
        if body is None:
            raise web.HTTPNotFound
        return web.Response(body=body, content_type="application/octet-stream")


async def _serve(port: int, memcached_port: int) -> None:
    app = web.Application()
    app.router.add_get("/file", PlainHandler(memcached_port).get)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(_serve(int(sys.argv[1]), int(sys.argv[2])))
