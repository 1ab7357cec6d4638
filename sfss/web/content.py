"""Files that have the digest of their content for a name: the faces "upload", "fetch" and "blobs".

They are those of SOS: an upload is answered with the id, by which the blob is fetched; a blob
server keeps blobs under ids that others have found. A blob whose id is a digest never changes, and
is never served with other bytes than those: a record that was written here says so in its names,
for the digest was checked then; what was written in another way is checked whenever it is read.
Any other id is a name like any other, and what it stands for may be replaced.

The same content again is the same blob, and is written again, so that what is answered is kept: the
names that came with the first stay, and it is kept for as long as the one that wants it longest
says. On stores that compare and write in two steps, two first uploads at the same moment may not
see each other; then the names of one of them stay, everywhere the same.
"""

import asyncio
from collections.abc import Callable, Mapping
from typing import Final, TypeAlias

from aiohttp import web

from sfss.agreement import Kept
from sfss.blob_ids import PREFIX, check_id, digest_like, id_at, id_of, is_digest, path_of
from sfss.errors import BadArgument, Corrupt, NoStoreReachable, NotFound, Refused
from sfss.record import Content, Head, Record, digest_of_any
from sfss.spool import Spool
from sfss.web import body, files, http, mediatypes, names_kept
from sfss.web.answers import CACHE_CONTROL, NO_SNIFFING
from sfss.web.conditional import Validators

MIME_TYPE: Final = "X-Mime-Type"
"""The field that says the type of a blob."""

CHECKED: Final = "Blob"
"""The name, in a record, of the id that was found to be that of its body."""

YEAR_S: Final = 31_536_000

_INLINE_SIZE: Final = 16 * 1024
"""Bytes whose digest costs less than a hop to a thread."""

_TRIES: Final = 16


async def upload(site: http.Site, request: web.BaseRequest) -> http.Answer:
    """``POST /upload``: keep the body; 200 with its id."""
    content = _without_heads(await _received(site, request))
    blob_id = await _in_thread(content, lambda: id_of(content.body, site.digest))
    return _kept(blob_id, await _keep(site, blob_id, content))


async def put(site: http.Site, request: web.BaseRequest) -> http.Answer:
    """``POST /blob/ID``: keep the body under this id; 400 if that is the digest of another."""
    blob_id = check_id(name_in(request))
    path = path_of(blob_id)
    site.cluster.check(path)
    guard = files.guard_of(request, lambda head: _validators(blob_id, head))
    content = await _received(site, request)
    if not is_digest(blob_id):
        return _kept(blob_id, await site.cluster.put(path, content, guard))
    found = await _in_thread(content, lambda: digest_like(blob_id, content.body))
    if found != blob_id:
        raise BadArgument("the id", repr(blob_id), f"this body has {found}")
    return _kept(blob_id, await _keep(site, blob_id, content, guard))


async def fetch(site: http.Site, request: web.BaseRequest) -> http.Answer:
    """``GET`` or ``HEAD /fetch/ID`` with any extension: the blob."""
    blob_id = check_id(fetched_in(request))
    return await _show(site, request, blob_id, for_browsers=True)


async def read(site: http.Site, request: web.BaseRequest) -> http.Answer:
    """``GET`` or ``HEAD /blob/ID``: the blob, with no ``X-`` fields but those that it came with."""
    return await _show(site, request, check_id(name_in(request)), for_browsers=False)


async def remove(site: http.Site, request: web.BaseRequest) -> http.Answer:
    """``DELETE /blob/ID``: 204, or 404 where there is none."""
    blob_id = check_id(name_in(request))
    try:
        path = path_of(blob_id)
        return await files.remove(site, request, path, lambda head: _validators(blob_id, head))
    except NotFound:
        raise NotFound(blob_id) from None


async def alive(site: http.Site, request: web.BaseRequest) -> http.Answer:
    """``GET /alive``: 200 as long as this process answers, however its stores are."""
    return http.Answer(200, {"Content-Type": "text/plain; charset=utf-8"}, b"alive\n")


async def listing(site: http.Site, request: web.BaseRequest) -> http.Answer:
    """``GET /blobs``: all ids as one JSON array, in byte order.

    It is answered when it is complete: half of it would be taken for all. Raises ``CannotList``;
    ``StoreFull`` when it finds no room in the spool folder.
    """
    spool = Spool(site.spool_folder)
    await _write_ids(site, spool)
    ids, _ = await spool.finish()
    return http.Answer(200, {"Content-Type": "application/json"}, ids)


async def _write_ids(site: http.Site, spool: Spool) -> None:
    after, separator = "", b"["
    while True:
        page = await site.cluster.list(PREFIX, after, http.PAGE_LIMIT)
        for blob_id in filter(None, (id_at(each.path) for each in page)):
            await spool.write(separator + f'"{blob_id}"'.encode("ascii"))
            separator = b",\n"
        if len(page) < http.PAGE_LIMIT:
            break
        after = page[-1].path
    await spool.write(b"[]\n" if separator == b"[" else b"]\n")


def name_in(request: web.BaseRequest) -> str:
    """Return what stands behind the first part of the address."""
    return request.path.partition("/")[2].partition("/")[2]


def fetched_in(request: web.BaseRequest) -> str:
    """Return the same without an extension."""
    return name_in(request).partition(".")[0]


async def _received(site: http.Site, request: web.BaseRequest) -> Content:
    """Return what ``request`` carries, with all that is to be kept with it."""
    names = names_kept.fields_to_keep(request.headers.items())
    ttl_s = names_kept.ttl_s(http.argument(request, "ttl"), request.headers.get("Expires-In"))
    file = body.Received(b"")
    if "Content-Length" in request.headers or "Transfer-Encoding" in request.headers:
        file = await files.read_body(site, request)
    if said := names_kept.media_type(file.media_type):
        names[names_kept.CONTENT_TYPE] = said
    digest = file.digest or await asyncio.to_thread(digest_of_any, file.body)
    return Content(file.body, digest, names, ttl_s)


def _without_heads(content: Content) -> Content:
    """Return ``content`` without what only a store has kept with a blob: by it, whoever uploads
    could say to a gateway over this one for how long there is a blob.
    """
    names = {
        name: text
        for name, text in content.names.items()
        if not name.startswith(names_kept.OF_STORES)
    }
    return content._replace(names=names)


async def _in_thread(content: Content, find: Callable[[], str]) -> str:
    """Return what ``find`` returns, without holding the others up over a large body."""
    return find() if len(content.body) <= _INLINE_SIZE else await asyncio.to_thread(find)


Guard: TypeAlias = Callable[[Head | None], None]


class _There(Exception):
    """Raised when the blob is there, and is not as it was expected to be."""

    def __init__(self, head: Head) -> None:
        super().__init__()
        self.head = head


async def _keep(
    site: http.Site, blob_id: str, content: Content, conditions: Guard | None = None
) -> Kept:
    """Keep ``content`` as the blob ``blob_id``, whose digest it has, under ``conditions``; see the
    head of this module.

    Where it cannot be told what is there, it is kept as it came; but raises ``NoStoreReachable`` if
    it is to expire, for it might take the place of what is not, and if there are conditions.
    """
    path = path_of(blob_id)
    new = content._replace(names={**content.names, CHECKED: blob_id})

    def guard(head: Head | None) -> None:
        # Where other bytes are, there is not the blob.
        is_there = head is not None and head.digest == new.digest
        if conditions is not None:
            conditions(head if is_there else None)
        if is_there and head and not _keeps(new, _merged(blob_id, content, head)):
            raise _There(head)

    for _ in range(_TRIES):
        try:
            return await site.cluster.put(path, new, guard)
        except _There as there:
            new = _merged(blob_id, content, there.head)
        except NoStoreReachable:
            if content.ttl_s is not None or conditions is not None:
                raise
            return await site.cluster.put(path, new)
    raise Refused(f"{blob_id} is uploaded again and again at this moment")


def _keeps(new: Content, wanted: Content) -> bool:
    """Tell whether ``new`` has the names that are ``wanted``, and is kept for as long at least."""
    if new.ttl_s is None:
        return new.names == wanted.names
    is_long = wanted.ttl_s is not None and wanted.ttl_s <= new.ttl_s
    return is_long and new.names == wanted.names


def _merged(blob_id: str, content: Content, head: Head) -> Content:
    """Return ``content`` as it has to be kept where a blob with ``head`` is."""
    names = {**(head.metadata or content.names), CHECKED: blob_id}
    ttl_s = content.ttl_s
    if ttl_s is not None:
        ttl_s = max(ttl_s, files.rest_of(head)) if head.expiry else None
    return content._replace(names=names, ttl_s=ttl_s)


def _kept(blob_id: str, kept: Kept) -> http.Answer:
    return http.json_answer({"id": blob_id, "status": "OK", "size": kept.head.size})


async def _show(
    site: http.Site, request: web.BaseRequest, blob_id: str, for_browsers: bool
) -> http.Answer:
    path = path_of(blob_id)
    try:
        record = await files.found(site, request, path)
        await _check(site, blob_id, record)
    except NotFound:
        raise NotFound(blob_id) from None
    names = record.head.metadata
    media_type = _media_type(names)
    # The name under which it is saved is what the link says, with its extension.
    shown = dict(site.answers.of(path, media_type, "", http.is_public(request)).fields)
    if not for_browsers:
        del shown[NO_SNIFFING]  # other blob servers of SOS would keep it with the blob
    caching = _caching(request, blob_id, record.head)
    if caching and not site.answers.caching_of(path):
        shown.pop(CACHE_CONTROL, None)  # it says less
    look = files.Look(
        _validators(blob_id, record.head),
        media_type,
        {**caching, **names_kept.shown_fields(names)},
        shown,
    )
    return await files.answer(request, record, look)


async def _check(site: http.Site, blob_id: str, record: Record) -> None:
    """Raise ``Corrupt`` unless the blob is what its id says."""
    if not is_digest(blob_id) or record.head.metadata.get(CHECKED) == blob_id:
        return
    path = path_of(blob_id)
    whole: Record | None = record
    if len(record.body) != record.head.size:  # it was asked for without
        whole = await site.cluster.get(path)
    if whole is None:
        raise NotFound(path)
    found = await asyncio.to_thread(digest_like, blob_id, whole.body)
    if found != blob_id:
        raise Corrupt("behind this", path.encode(), f"the digest {blob_id}", found)


def _validators(blob_id: str, head: Head) -> Validators:
    """Return what tells one state of the blob from another: with a digest for a name it has one."""
    return Validators(f'"{blob_id}"', None) if is_digest(blob_id) else files.validators_of(head)


def _media_type(names: Mapping[str, str]) -> str:
    # Not by the extension that is asked for: whoever makes a link would say what a blob is.
    said = names_kept.well_formed_type(names.get(MIME_TYPE))
    return said or names_kept.media_type(names.get(names_kept.CONTENT_TYPE)) or mediatypes.DEFAULT


def _caching(request: web.BaseRequest, blob_id: str, head: Head) -> dict[str, str]:
    if not is_digest(blob_id):
        return {}
    # A cache that others ask, too, would give them what was given to a token (RFC 9111, 3.5).
    whose = "public" if http.is_public(request) else "private"
    age_s = min(YEAR_S, files.rest_of(head)) if head.expiry else YEAR_S
    return {CACHE_CONTROL: f"{whose}, max-age={age_s}, immutable"}
