"""Objects by their ULIDs, in a cluster and in a bucket: the face "objects", which is objstore's."""

import secrets
import time
from typing import Final

from aiohttp import web

from sfss import __version__
from sfss.errors import NotFound, Refused
from sfss.objects import Found, Objects
from sfss.record import Content, Record
from sfss.ulid import RANDOM_BITS, read_ulid, ulid
from sfss.web import body, files, http, mediatypes, names_kept, object_fields

_TEXT: Final = {"Content-Type": "text/plain; charset=utf-8"}
_DELETED: Final = "X-Meta-Deleted"


async def ping(site: http.Site, request: web.BaseRequest) -> http.Answer:
    """``GET /api/v1/ping``: the name of this member, in text."""
    return http.Answer(200, _TEXT, _objects(site).place.member_id.encode())


async def new_id(site: http.Site, request: web.BaseRequest) -> http.Answer:
    """``GET /api/v1/id``: a new ULID, in text."""
    name = ulid(time.time_ns() // 1_000_000, secrets.randbits(RANDOM_BITS))
    return http.Answer(200, {**_TEXT, "Cache-Control": "no-store"}, name.encode())


async def version(site: http.Site, request: web.BaseRequest) -> http.Answer:
    """``GET /api/v1/version``: the version, in text."""
    return http.Answer(200, _TEXT, __version__.encode())


async def stats(site: http.Site, request: web.BaseRequest) -> http.Answer:
    """``GET /api/v1/stats``: the disk of the store here, in bytes, and counters, as JSON."""
    objects = _objects(site)
    disk = await objects.disk()
    counters = {
        "requests": site.board.statuses(),
        **site.board.totals(),
        "owed_to_bucket": await objects.owing(),
        "this_worker": objects.counts,
    }
    return http.json_answer({"disk_stats": disk, "sfss": counters})


async def put(site: http.Site, request: web.BaseRequest) -> http.Answer:
    """``POST /api/v1/put``: keep the body as an object; 200 with what ``meta`` says of it."""
    objects = _objects(site)
    object_id = object_fields.object_id(request.headers)
    traits = object_fields.traits(request.headers, "")
    ttl_s = names_kept.ttl_s(http.argument(request, "ttl"), request.headers.get("Expires-In"))
    guard = files.guard_of(request)
    site.cluster.check_condition(guard)
    file = body.Received(b"")
    if "Content-Length" in request.headers or "Transfer-Encoding" in request.headers:
        file = await files.read_body(site, request)
    guessed = mediatypes.guess(traits.name)
    said = names_kept.media_type(file.media_type) if guessed == mediatypes.DEFAULT else guessed
    traits = traits._replace(media_type=said or "")
    content = Content(file.body, file.digest, ttl_s=ttl_s)
    entry = await objects.put(object_id, content, traits, guard)
    return http.json_answer(
        _description(Found(entry)), 200, files.validators_of(entry.head).fields()
    )


async def read(site: http.Site, request: web.BaseRequest) -> http.Answer:
    """``GET`` or ``HEAD /api/v1/get/ID``: the object; with ``X-Meta-Fetch: 1`` also one that only
    the bucket has.
    """
    object_id, fetches = _id_in(request), object_fields.wants_fetch(request.headers)
    with_body = request.method != "HEAD"
    found = await _objects(site).get(object_id, fetches, with_body)
    if found is None:
        raise NotFound(object_id)
    if found.entry.is_deleted:
        fields = {"X-Meta-Id": object_id, _DELETED: "true"}
        return http.refuse(request, 404, f"object {object_id} was deleted", fields)
    return await _show(site, request, found)


async def _show(site: http.Site, request: web.BaseRequest, found: Found) -> http.Answer:
    entry = found.entry
    more = object_fields.shown(entry.id, entry.traits)
    if found.is_elsewhere and not found.was_fetched:
        more["X-Meta-Symlink"] = "true"
    if found.was_fetched:
        more["X-Meta-Fetched"] = "true"
    said = names_kept.well_formed_type(entry.traits.media_type)
    media_type = said or mediatypes.guess(entry.traits.name)
    name = entry.traits.name.rpartition("/")[2]
    is_public = http.is_public(request)
    shown = site.answers.of(f"objects/{entry.id}", media_type, name, is_public).fields
    look = files.Look(files.validators_of(entry.head), media_type, more, shown)
    return await files.answer(request, Record(entry.head, found.body), look)


async def meta(site: http.Site, request: web.BaseRequest) -> http.Answer:
    """``GET /api/v1/meta/ID``: what is known of an object, also of a deleted one, as JSON."""
    object_id = _id_in(request)
    found = await _objects(site).look(object_id)
    if found is None:
        raise NotFound(object_id)
    return http.json_answer(_description(found))


async def remove(site: http.Site, request: web.BaseRequest) -> http.Answer:
    """``POST /api/v1/delete/ID``: 200, also if it was deleted before; 404 if it is unknown."""
    object_id = _id_in(request)
    fetches = object_fields.wants_fetch(request.headers)
    entry = await _objects(site).delete(object_id, fetches)
    if entry is None:
        raise NotFound(object_id)
    fields = {**object_fields.shown(object_id, entry.traits), _DELETED: "true"}
    return http.json_answer(_description(Found(entry)), 200, fields)


def _description(found: Found) -> dict[str, object]:
    entry = found.entry
    return {
        "id": entry.id,
        "name": entry.traits.name,
        "size": entry.size,
        "timestamp": entry.written * 1000,
        "user_meta": dict(entry.traits.user),
        "is_symlink": found.is_elsewhere,
        "consistency": entry.traits.level,
        "is_deleted": entry.is_deleted,
        "is_fetched": entry.is_fetched,
    }


def _objects(site: http.Site) -> Objects:
    if site.objects is None:
        raise Refused("there are no objects here")
    return site.objects


def _id_in(request: web.BaseRequest) -> str:
    """Return the id at the end of the address; raises ``NotFound`` for what is none: nothing can
    have it.
    """
    text = request.path.rpartition("/")[2]
    object_id = read_ulid(text)
    if object_id is None:
        raise NotFound(f"{text} (an id is a ULID)")
    return object_id
