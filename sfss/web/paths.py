"""Files and folders by URL path: GET, PUT and DELETE of plain HTTP.

Folders are there as long as a file is below them. None is made or removed by itself.
"""

from collections.abc import Mapping
from typing import Final

from aiohttp import web

from sfss.agreement import Kept, Written
from sfss.errors import NotFound
from sfss.grants import LIST
from sfss.record import Head
from sfss.web import files, folders, http
from sfss.web.locations import Location, locate, reference

FOLDER_METHODS: Final = "GET, HEAD, DELETE, OPTIONS, PROPFIND, MKCOL"

_OF_NATIVE: Final = frozenset({"/file", "/files"})


def refuse_native(request: web.BaseRequest) -> http.Answer | None:
    """Return a refusal of what is meant for the face "native", which is not there: all files that
    a client names in its queries would be kept as one, and each would replace the one before.
    """
    if request.path not in _OF_NATIVE or (path := request.query.get("path")) is None:
        return None
    sentence = (
        "this address takes files by their URL path: "
        f"{request.method} {reference(f'/{path}')}; with sfss put: --face paths"
    )
    return http.refuse(request, 400, sentence)


def location_of(site: http.Site, request: web.BaseRequest) -> Location:
    """Return what the URL of ``request`` names; errors as ``locate``."""
    return locate(request.raw_path, site.rewrites)


def version_field(head: Head) -> Mapping[str, str]:
    """Return the header field with the version of a file to the microsecond, which Last-Modified
    cannot tell: another sfss that has this one as a store goes by it.
    """
    return {"X-Sfss-Version": str(head.version)} if head.version else {}


async def read(site: http.Site, request: web.BaseRequest) -> http.Answer:
    """Answer GET and HEAD: with the file as ``files.show``, or with what is in the folder."""
    location = location_of(site, request)
    if location.is_folder:
        return await folders.show(site, request, location)
    try:
        return await files.show(site, request, location.path, version_field)
    except NotFound:
        moved = await folders.moved(site, location) if _may_be_folder(request, location) else None
        if moved is None:
            raise
        return moved


def _may_be_folder(request: web.BaseRequest, location: Location) -> bool:
    if not request[http.GRANT].allows(LIST, location.as_folder.path):
        return False  # to say that there is one would tell what is in the folder above
    # To look for a folder may take a question to every store: not for each picture that is gone.
    by_browser = "text/html" in request.headers.get("Accept", "")
    return by_browser or "." not in location.asked.rpartition("/")[2]


async def put(site: http.Site, request: web.BaseRequest) -> http.Answer:
    """Create or replace a file: 201, with a line for each of several stores."""
    location = location_of(site, request)
    if location.is_folder:
        sentence = "folders are made by the files in them; put a file"
        return http.refuse(request, 405, sentence, {"Allow": FOLDER_METHODS})
    kept = await files.receive(site, request, location.path)
    fields = {
        "Location": reference(f"/{location.asked}"),
        **files.validators_of(kept.head).fields(),
        **version_field(kept.head),
    }
    return _report(request, kept, fields)


def _report(request: web.BaseRequest, kept: Kept, fields: dict[str, str]) -> http.Answer:
    outcomes = {each.address: _outcome(each) for each in kept.written}
    if http.wants_json(request):
        return http.json_answer({"stores": outcomes}, 201, fields)
    lines = [f"{address}: {outcome}\n" for address, outcome in outcomes.items()] or ["stored\n"]
    fields = {**fields, "Content-Type": "text/plain; charset=utf-8"}
    return http.Answer(201, fields, "".join(lines).encode("utf-8", "backslashreplace"))


def _outcome(written: Written) -> str:
    """Return in one line what became of a write at one store, which is named before it."""
    if written.failure is not None:
        store = f"store {written.address} "
        sentence = str(written.failure).removeprefix(store).replace(store, "it ")
        return http.printable(sentence)
    if written.newer is not None:
        return "has something newer"
    return "stored" if written.asked else "not stored: written around it"


async def remove(site: http.Site, request: web.BaseRequest) -> http.Answer:
    """Remove a file: 204, or 404 where there is none. Of a folder only that it is empty can be
    confirmed: files are removed one by one, and the last takes the folder with it.
    """
    location = location_of(site, request)
    if not location.is_folder:
        return await files.remove(site, request, location.path)
    folders.forget(site, location)
    if await folders.has_files(site, location):
        return http.refuse(request, 403, "the folder is not empty: remove the files in it first")
    return http.Answer(204, {})
