"""What is said of each route in the OpenAPI description: one entry each. Pure.

``tests/web/test_openapi.py`` holds this table and that of the routes (``app``) together, and
schemathesis holds it against running gateways.
"""

from collections.abc import Mapping
from typing import Final

from sfss.web.description_content import BLOBS, OBJECTS
from sfss.web.description_parts import (
    ANY_TYPE,
    ARGUMENTS,
    CONDITIONS,
    JSON,
    KEEPS,
    LISTING,
    READING,
    READS,
    TEXT,
    WRITING,
)
from sfss.web.description_terms import (
    DATED,
    FORM,
    STATE,
    Answer,
    Entry,
    Key,
    Link,
    file_answers,
    json_answer,
    removal,
    text_answer,
    transfer,
)

HTML: Final = "text/html"
EVENTS: Final = "text/event-stream"
XML: Final = "application/xml"
PLAIN_OR_OPEN: Final = ("text/plain", "application/openmetrics-text")

_QUERY: Final = "$request.query.path"
_IN_PATH: Final = "$request.path.path"

_READ_FILE: Final = ("GET", "/file")
_REMOVE_FILE: Final = ("DELETE", "/file")
_NATIVE_LINKS: Final = {
    "read": Link(_READ_FILE, "path", _QUERY),
    "remove": Link(_REMOVE_FILE, "path", _QUERY),
}

NATIVE: Final[Mapping[Key, Entry]] = {
    ("POST", "/files"): Entry(
        {201: Answer("It is kept.", {}, ("ETag", "Location"), DATED)},
        ("path", *KEEPS, *CONDITIONS),
        True,
        WRITING,
        _NATIVE_LINKS,
        'curl -X POST --data-binary @photo.jpg "$SFSS_URL/files?path=a/photo.jpg"',
        FORM,
    ),
    ("GET", "/files"): Entry(
        {200: json_answer("A page, in byte order of the paths.", "Page")},
        ("prefix", "after", "limit", "delimiter"),
        refusals=LISTING,
        links={
            "next": Link(("GET", "/files"), "after", "$response.body#/next"),
            "first": Link(_READ_FILE, "path", "$response.body#/files/0/path"),
        },
        example='curl "$SFSS_URL/files?prefix=a/&limit=10"',
        more="Where the stores cannot list, 501.",
    ),
    ("PUT", "/file"): Entry(
        {200: Answer("It is kept.", {}, STATE, DATED)},
        ("path", *KEEPS, *CONDITIONS),
        True,
        WRITING,
        _NATIVE_LINKS,
        'curl -T photo.jpg "$SFSS_URL/file?path=a/photo.jpg"',
        FORM,
    ),
    _READ_FILE: Entry(
        file_answers("X-Content-Type-Options"),
        ("path", *READS),
        refusals=READING,
        links={"remove": Link(_REMOVE_FILE, "path", _QUERY)},
        example='curl "$SFSS_URL/file?path=a/photo.jpg" -o copy.jpg',
        more="Whatever else the query says makes no difference.",
    ),
    _REMOVE_FILE: removal(
        Link(_READ_FILE, "path", _QUERY), 'curl -X DELETE "$SFSS_URL/file?path=a/photo.jpg"'
    ),
}
_PAGE_CONDITIONS: Final = ("if_match_to_read", "if_none_match_to_read")
_SAME: Final = Answer("It is as the client has it.", {}, ("ETag",))
_STYLE: Final = Entry(
    {200: Answer("The style sheet.", {"text/css": None}, ("ETag",)), 304: _SAME},
    _PAGE_CONDITIONS,
    refusals=(412,),
)

_PAGE: Final = Entry(
    {200: Answer("The page, or what it is made of.", {ANY_TYPE: None}), 304: _SAME},
    ("asset", *_PAGE_CONDITIONS),
    refusals=(404, 412),
)

SERVICE: Final[Mapping[Key, Entry]] = {
    ("GET", "/status"): Entry(
        {200: json_answer("Statistics.", "Statistics")},
        ("detail",),
        refusals=(504,),
        example='curl "$SFSS_URL/status?detail=full"',
    ),
    ("GET", "/status/events"): Entry(
        {200: Answer("How all is, every second: server-sent events.", {EVENTS: None})},
        refusals=(503,),
        example='curl -N --max-time 2 "$SFSS_URL/status/events" || [ $? = 28 ]',
        more="It goes on until the client leaves. 503 where too many watch already.",
    ),
    ("GET", "/status/*"): _PAGE,
    ("GET", "/browse"): Entry(
        {301: Answer("The page is at browse/.", {}, ("Location",))}, summary="to the page"
    ),
    ("GET", "/browse/*"): _PAGE,
    ("GET", "/debug/vars"): Entry(
        {200: json_answer("Counters.", "Counters")}, example='curl "$SFSS_URL/debug/vars"'
    ),
    ("GET", "/admin/migration"): Entry(
        {200: json_answer("Where it is.", "Migration")},
        refusals=(409,),
        example='curl -H "Authorization: Bearer $SFSS_TOKEN" "$SFSS_URL/admin/migration"',
        needs_token=True,
    ),
    ("POST", "/admin/migration"): Entry(
        {200: json_answer("Where it is then.", "Migration")},
        ("step", "force"),
        refusals=(409,),
        example='curl -X POST -H "Authorization: Bearer $SFSS_TOKEN"'
        ' "$SFSS_URL/admin/migration?step=start"',
        needs_token=True,
    ),
    ("GET", "/health/live"): Entry(
        {200: json_answer("It is alive.", "Alive")}, example='curl "$SFSS_URL/health/live"'
    ),
    ("GET", "/health/ready"): Entry(
        {
            200: json_answer("It can serve.", "Ready", "Cache-Control"),
            503: json_answer("It cannot, and error says why.", "Ready", may=("Cache-Control",)),
        },
        example='curl "$SFSS_URL/health/ready"',
    ),
    ("GET", "/metrics"): Entry(
        {
            200: Answer(
                "All metrics, in the format that Accept asks for.", dict.fromkeys(PLAIN_OR_OPEN)
            )
        },
        example='curl "$SFSS_URL/metrics"',
    ),
    ("GET", "/openapi.json"): Entry(
        {
            200: json_answer("This description.", "Description", "ETag"),
            304: _SAME,
        },
        _PAGE_CONDITIONS,
        refusals=(412,),
        example='curl "$SFSS_URL/openapi.json"',
    ),
    ("GET", "/api/"): Entry(
        {
            200: Answer("The page.", {HTML: None}, STATE),
            304: _SAME,
        },
        _PAGE_CONDITIONS,
        refusals=(412,),
    ),
    ("GET", "/api/common.css"): _STYLE,
    ("GET", "/api/page.css"): _STYLE,
}

_ANYWHERE: Final = "/*"
FOLDER: Final = "/*/"
"""The same route where a folder is named."""

_READ: Final = ("GET", _ANYWHERE)
_REMOVE: Final = ("DELETE", _ANYWHERE)

PATHS: Final[Mapping[Key, Entry]] = {
    ("GET", "/__index__/"): Entry(
        {
            200: Answer(
                "A page of links, or JSON where Accept names that.", {HTML: None, JSON: "Index"}
            )
        },
        ("after", "limit"),
        refusals=LISTING,
        example='curl -H "Accept: application/json" "$SFSS_URL/__index__/"',
    ),
    ("GET", "/__missing__/"): Entry(
        {
            200: Answer(
                "A page of links, or JSON where Accept names that.", {HTML: None, JSON: "Missing"}
            )
        },
        ("place_after", "limit", "store"),
        refusals=LISTING,
        example='curl -H "Accept: application/json" "$SFSS_URL/__missing__/"',
    ),
    ("GET", "/__readme.txt"): Entry(
        {200: text_answer("Commands for this installation.")},
        example='curl "$SFSS_URL/__readme.txt"',
    ),
    _READ: Entry(
        {
            **file_answers("X-Content-Type-Options", may=("X-Sfss-Version",)),
            301: Answer("It is a folder: the same with a / behind it.", {}, ("Location",)),
        },
        ("url_path", *READS),
        refusals=READING,
        links={"remove": Link(_REMOVE, "url_path", _IN_PATH)},
        example='curl "$SFSS_URL/a/photo.jpg" -o copy.jpg',
        more="Whatever the query says makes no difference.",
        summary="a file; ranges and conditions are honoured",
    ),
    ("GET", FOLDER): Entry(
        {
            200: Answer(
                "What is in the folder: a page of links, or JSON where Accept names that.",
                {HTML: None, JSON: "Folder"},
                ("X-Content-Type-Options",),
                ("Link",),
            )
        },
        ("folder", "name_after", "limit"),
        refusals=(404, *LISTING),
        example='curl -H "Accept: application/json" "$SFSS_URL/a/"',
        more="The topmost folder is /. JSON comes whole where neither after nor limit is given.",
        summary="what is in a folder",
    ),
    ("PUT", _ANYWHERE): Entry(
        {
            201: Answer(
                "It is kept; in a line for each store, or in JSON where Accept names that, what"
                " became of it.",
                {TEXT: None, JSON: "Stored"},
                ("ETag", "Location"),
                (*DATED, "X-Sfss-Version"),
            )
        },
        ("url_path", *KEEPS, *CONDITIONS),
        True,
        (404, 405, *WRITING),
        {"read": Link(_READ, "url_path", _IN_PATH), "remove": Link(_REMOVE, "url_path", _IN_PATH)},
        'curl -T photo.jpg "$SFSS_URL/a/photo.jpg"',
        f"{FORM} Folders are made by the files in them: a PUT to one is 405.",
    ),
    _REMOVE: removal(Link(_READ, "url_path", _IN_PATH), 'curl -X DELETE "$SFSS_URL/a/photo.jpg"'),
    ("DELETE", FOLDER): Entry(
        {204: Answer("The folder is empty; so there is none.")},
        ("folder",),
        refusals=(404, *LISTING),
        example='curl -X DELETE "$SFSS_URL/empty/"',
        more="One that is not empty is 403: its files have to be removed first, one by one.",
        summary="whether a folder is empty",
    ),
    ("OPTIONS", _ANYWHERE): Entry(
        {200: Answer("The methods, whatever is there.", {}, ("Allow", "DAV"))},
        ("any_path",),
        example='curl -X OPTIONS -i "$SFSS_URL/a/photo.jpg"',
    ),
    ("PROPFIND", _ANYWHERE): Entry(
        {207: Answer("Properties of a file, or of a folder and what is in it.", {XML: None})},
        ("url_path",),
        refusals=(404, 504),
        example='curl -X PROPFIND -H "Depth: 1" "$SFSS_URL/a/"',
        more="With the field Depth, 0 or 1; 403 for any other.",
    ),
    ("MKCOL", _ANYWHERE): Entry(
        {201: Answer("A file can be put there.")},
        ("url_path",),
        refusals=(404, 405, 415, 504),
        example='curl -X MKCOL "$SFSS_URL/new/"',
        more="A folder is there as soon as a file is in it.",
    ),
    ("COPY", _ANYWHERE): transfer(
        "copied",
        'curl -X COPY -H "Destination: /a/copy.jpg" "$SFSS_URL/a/photo.jpg"',
        "The field Destination says where to; with Overwrite: F, 412 where something is.",
    ),
    ("MOVE", _ANYWHERE): transfer(
        "moved",
        'curl -X MOVE -H "Destination: /a/new.jpg" "$SFSS_URL/a/photo.jpg"',
        "As COPY, and then the former file is removed.",
    ),
}

ENTRIES: Final[Mapping[Key, Entry]] = {**NATIVE, **SERVICE, **PATHS, **BLOBS, **OBJECTS}
"""What is said of each route, by method and address."""

FACES: Final[Mapping[str, str]] = {
    "native": "Files by their paths, which are arguments of the query.",
    "status": "Statistics of the stores and of this server.",
    "paths": "Files by URL path, for WebDAV clients, too.",
    "debug": "Counters, as Photosrv had them.",
    "admin": "What changes how the service works.",
    "upload": "Files that are kept under their digest.",
    "fetch": "Files by their digest.",
    "blobs": "A blob server, for gateways in front of it.",
    "objects": "Objects by ULID, in a cluster and in a bucket.",
    "health": "For whoever decides what to restart, and whom to ask.",
    "metrics": "For Prometheus.",
    "api": "This description.",
    "browser": "Files and folders, for people.",
}
"""What is said of each face."""


def arguments_of(key: Key) -> tuple[str, ...]:
    """Return the names of the arguments of the query that a route has."""
    found = [ARGUMENTS[each] for each in ENTRIES[key].takes]
    return tuple(each["name"] for each in found if each["in"] == "query")


STRICT: Final[Mapping[Key, tuple[str, ...]]] = {
    key: arguments_of(key)
    for key in (
        ("POST", "/files"),
        ("GET", "/files"),
        ("PUT", "/file"),
        ("DELETE", "/file"),
        ("GET", "/status"),
        ("GET", "/admin/migration"),
        ("POST", "/admin/migration"),
    )
}
"""The routes that refuse other arguments than theirs, with those: what is misspelt would be left
out without a word. Not so where files are read: others write arguments of their own behind links.
"""
