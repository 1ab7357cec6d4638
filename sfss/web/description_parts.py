"""What descriptions of several routes share: arguments, header fields, refusals, schemas. Pure.

All are objects of OpenAPI 3.1 (https://spec.openapis.org/oas/v3.1.1), as they stand below
``components``. Schemas are of JSON Schema 2020-12.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeAlias

from sfss.object_entries import LEVELS
from sfss.web import http, names_kept

Json: TypeAlias = dict[str, Any]

TEXT: Final = "text/plain"
JSON: Final = "application/json"
ANY_TYPE: Final = "*/*"

_PART: Final = r"[^/\\\x00-\x1f\x7f-\x9f]"
_NAME: Final = r"[^./\\\x00-\x1f\x7f-\x9f][^/\\\x00-\x1f\x7f-\x9f]*"
_PATH: Final = {
    "type": "string",
    "format": "sfss-path",
    "minLength": 1,
    "maxLength": 250,
    "pattern": rf"^{_PART}(/?{_PART})*/?$",
}
_URL_PATH: Final = {
    "type": "string",
    "format": "sfss-url-path",
    "minLength": 1,
    "maxLength": 250,
    "pattern": rf"^{_NAME}(/{_NAME})*$",
}
_FOLDER: Final = {"type": "string", "minLength": 1, "pattern": rf"^{_NAME}(/{_NAME})*$"}
_BLOB_ID: Final = {"type": "string", "pattern": "^[a-z0-9]+$", "minLength": 1, "maxLength": 241}
_ULID: Final = {
    "type": "string",
    "pattern": "^[0-7][0-9A-HJKMNP-TV-Za-hjkmnp-tv-z]{25}$",
    "examples": ["01JDKM3Z6V5T0Q8RWXYA4B2C1D"],
}
_SECONDS: Final = {"type": "integer", "minimum": 1, "maximum": names_kept.TTL_LIMIT_S}
_DIGITS: Final = {"type": "string", "pattern": "^(0?[1-9][0-9]{0,8}|[12][0-9]{9})$"}
_LIMIT: Final = {
    "type": "integer",
    "minimum": 1,
    "maximum": http.PAGE_LIMIT,
    "default": http.PAGE_LIMIT,
}
_ETAGS: Final = {
    "type": "string",
    "format": "etags",
    "examples": ['"0f343b0931126a20f133d67c2b018a3b"', "*"],
}
_VISIBLE: Final = {"type": "string", "pattern": "^[ -~]*$"}
_ANY_TEXT: Final[Json] = {"type": "string"}
_BEGINNING: Final = {
    "type": "string",
    "format": "sfss-path",
    "pattern": rf"^({_PART}(/?{_PART})*/?)?$",
}


def _argument(place: str, name: str, what: str, schema: Json, required: bool = False) -> Json:
    found = {"name": name, "in": place, "description": what, "schema": schema}
    return {**found, "required": True} if required or place == "path" else found


def _query(name: str, what: str, schema: Json, required: bool = False) -> Json:
    return _argument("query", name, what, schema, required)


def _field(name: str, what: str, schema: Json, required: bool = False) -> Json:
    return _argument("header", name, what, schema, required)


ARGUMENTS: Final[Mapping[str, Json]] = {
    "path": _query(
        "path",
        "Where the file is: no / at the beginning, no //, no backslash, no control characters. At"
        " most 250 bytes of UTF-8 over most stores; where they are plain files, none of its parts"
        " begins with a dot, and none is empty.",
        _PATH,
        required=True,
    ),
    "url_path": _argument(
        "path",
        "path",
        "The path of a file: everything behind the first /, with as many / as there are folders."
        " (As OpenAPI has it, a / in here is written %2F; both are understood.) No part of it"
        " begins with a dot. Addresses that have a meaning of their own name no files.",
        _URL_PATH,
    ),
    "any_path": _argument("path", "path", "Any path.", {"type": "string", "minLength": 1}),
    "folder": _argument("path", "folder", "The path of a folder, which ends with a /.", _FOLDER),
    "blob": _argument(
        "path",
        "id",
        "The name of a blob: small letters and digits. One of 40 or 64 hexadecimal digits is the"
        " SHA-1 or the SHA-256 of the blob.",
        _BLOB_ID,
    ),
    "blob_file": _argument(
        "path",
        "id",
        "The name of a blob, and any extension, which makes no difference.",
        {"type": "string", "pattern": r"^[a-z0-9]+(\.[A-Za-z0-9._-]*)?$", "maxLength": 200},
    ),
    "object": _argument("path", "id", "The name of an object, a ULID.", _ULID),
    "object_to_put": _field("X-Meta-ID", "The name of the object, a ULID.", _ULID, required=True),
    "object_name": _field(
        "X-Meta-Name",
        "What the object is called; what it ends with may say its type.",
        _VISIBLE,
    ),
    "object_level": _field(
        "X-Meta-ConsistencyLevel",
        "Where it is kept: 0 on one member, 1 there and in the bucket, 2 on all and there.",
        {"type": "string", "enum": [str(level) for level in LEVELS], "default": "0"},
    ),
    "object_user": _field(
        "X-Meta-UserMeta",
        "What its owner says of it: a JSON object of strings.",
        {
            "type": "string",
            "format": "json-object-of-strings",
            "contentMediaType": JSON,
            "examples": ['{"owner":"me"}'],
        },
    ),
    "fetch": _field("X-Meta-Fetch", "1, true or yes: also what only the bucket has.", _ANY_TEXT),
    "ttl": _query("ttl", "For how many seconds the file is kept; without it, for ever.", _SECONDS),
    "expires_in": _field("Expires-In", "The same as ttl, which counts if both are given.", _DIGITS),
    "if_match": _field("If-Match", "Only if the file has one of these tags; *: any.", _ETAGS),
    "if_none_match": _field(
        "If-None-Match", "Only if the file has none of these tags; *: if there is none.", _ETAGS
    ),
    "if_match_to_read": _field(
        "If-Match", "Only if the file has one of these tags; *: any. No tags: none.", _ANY_TEXT
    ),
    "if_none_match_to_read": _field(
        "If-None-Match",
        "304 if the file has one of these tags; *: whatever there is. No tags: ignored.",
        _ANY_TEXT,
    ),
    "if_unmodified_since": _field(
        "If-Unmodified-Since", "Only if it has not changed since; no date: ignored.", _ANY_TEXT
    ),
    "if_modified_since": _field(
        "If-Modified-Since", "Only if it has changed since; no date: ignored.", _ANY_TEXT
    ),
    "range": _field(
        "Range",
        "Which bytes: bytes=0-99, bytes=-100, or up to 16 of these. What is malformed is ignored.",
        {**_ANY_TEXT, "examples": ["bytes=0-99"]},
    ),
    "if_range": _field(
        "If-Range", "The range only if the file has this tag, else all of it.", _ANY_TEXT
    ),
    "prefix": _query("prefix", "What the paths begin with.", _BEGINNING),
    "after": _query("after", "The path after which to begin: next of the page before.", _BEGINNING),
    "limit": _query("limit", "How many there are on a page at most.", _LIMIT),
    "delimiter": _query(
        "delimiter",
        "/: only files without a / behind the prefix, and folders.",
        {"type": "string", "enum": ["/"]},
    ),
    "asset": _argument(
        "path",
        "name",
        "What the page is made of; without a name, behind the last /, the page itself.",
        _ANY_TEXT,
    ),
    "name_after": _query("after", "The name after which to begin.", _BEGINNING),
    "place_after": _query(
        "after", "The place after which to begin: next of the page before.", _ANY_TEXT
    ),
    "store": _query("store", "The address of one store: its writes alone.", {"type": "string"}),
    "detail": _query("detail", "full: this server, too.", {"type": "string", "enum": ["full"]}),
    "step": _query(
        "step", "The step.", {"type": "string", "enum": ["start", "finish", "abort"]}, required=True
    ),
    "force": _query(
        "force",
        "true: end although not everything has been copied.",
        {"type": "string", "enum": ["true", "false"]},
    ),
}
"""What a request may say besides its body, by a name of ours."""

READS: Final = (
    "if_match_to_read",
    "if_none_match_to_read",
    "if_unmodified_since",
    "if_modified_since",
    "range",
    "if_range",
)
CONDITIONS: Final = ("if_match", "if_none_match", "if_unmodified_since")
KEEPS: Final = ("ttl", "expires_in")


def _shown(what: str, schema: Json | None = None) -> Json:
    return {"description": what, "schema": schema or {"type": "string"}}


_NUMBER: Final[Json] = {"type": "integer", "minimum": 0}
_DATE: Final[Json] = {"type": "string", "pattern": "GMT$"}

HEADERS: Final[Mapping[str, Json]] = {
    "ETag": _shown(
        "What tells this state of the file from others.",
        {"type": "string", "pattern": '^"[!#-~]*"$'},
    ),
    "Last-Modified": _shown("When it was written; not there where that is not known.", _DATE),
    "Expires": _shown("Until when it is kept; not there: for ever.", _DATE),
    "Location": _shown("Where it is, relative to this server."),
    "Accept-Ranges": _shown("bytes: ranges are understood."),
    "Content-Range": _shown("Which bytes of how many these are; of a 416, how many there are."),
    "Cache-Control": _shown("For how long it may be kept by caches."),
    "Allow": _shown("The methods that are understood here."),
    "WWW-Authenticate": _shown("How to say who is asking."),
    "Retry-After": _shown("Seconds to wait before asking again.", _NUMBER),
    "X-Request-ID": _shown(
        "The id of the request, as it came; of an error, one is made where none came. It stands"
        " in the logs, of the stores, too."
    ),
    "X-Sfss-Version": _shown("When it was written, microseconds since 1970.", _NUMBER),
    "X-Content-Type-Options": _shown("nosniff: the type is to be believed."),
    "Link": _shown("Where the next page is."),
    "DAV": _shown("The classes of WebDAV that are understood."),
    "X-Meta-Id": _shown("The name of the object.", _ULID),
    "X-Meta-Name": _shown("What it is called."),
    "X-Meta-Consistencylevel": _shown("Where it is kept."),
    "X-Meta-Usermeta": _shown("What its owner has said of it."),
    "X-Meta-Deleted": _shown("true: it was deleted."),
    "X-Meta-Symlink": _shown("true: its body is kept by another member."),
    "X-Meta-Fetched": _shown("true: it came from the bucket just now."),
}
"""Header fields of answers."""

REFUSALS: Final[Mapping[int, tuple[str, Sequence[str]]]] = {
    400: ("The path, an argument or the body breaks a rule, or this is no HTTP.", ()),
    401: ("It has to be said who is asking, by a token.", ("WWW-Authenticate",)),
    403: ("Whoever asks may not do this, or nobody may.", ()),
    404: ("It is not there: every store that could have it was asked, and said so.", ()),
    405: ("This method means nothing here; Allow says which do.", ("Allow",)),
    408: ("The request did not arrive in time. Nothing was stored.", ()),
    409: ("It does not go with how things are now. Nothing was changed.", ()),
    412: ("A condition does not hold. Nothing was changed.", ()),
    413: ("The file is larger than this service or a store takes. Nothing was stored.", ()),
    414: ("The address is too long.", ()),
    415: ("The body is compressed or otherwise coded. Nothing was stored.", ()),
    416: ("The file has no such bytes.", ("Content-Range",)),
    429: ("Too many requests: ask again later.", ("Retry-After",)),
    431: ("The header, or what of it is to be kept, is too large.", ()),
    500: ("The file is damaged on every store, or the service has a fault.", ()),
    501: ("A store has no way to list what it holds.", ()),
    503: ("This cannot be served now.", ("Retry-After",)),
    504: (
        "Stores that would have to know cannot be reached; on a write, too few have kept it.",
        (),
    ),
    505: ("Only HTTP/1.1 and HTTP/1.0 are understood.", ()),
    507: ("A store, or the disk of this service, has no room. Nothing was stored.", ()),
}
"""What the statuses of refusals say, and their header fields; ``http.STATUS`` gives the errors."""

ALWAYS: Final = (400, 401, 403, 408, 414, 429, 431, 500, 503, 505)
"""What any request may be refused with."""

READING: Final = (404, 412, 416, 504)
LISTING: Final = (501, 504)
WRITING: Final = (408, 409, 412, 413, 415, 504, 507)
REMOVING: Final = (404, 412, 504, 507)


def _fixed(required: Sequence[str] = (), /, **properties: Json) -> Json:
    """Return the schema of an object with these ``properties``; all are there, but for those that
    are left out of ``required`` if that is given.
    """
    return {
        "type": "object",
        "properties": properties,
        "required": list(required or properties),
        "additionalProperties": False,
    }


_STRING: Final[Json] = {"type": "string"}
_BOOLEAN: Final[Json] = {"type": "boolean"}
_ANY_OBJECT: Final[Json] = {"type": "object"}
_NEXT: Final[Json] = {
    "type": ["string", "null"],
    "description": "What to give as after; null: none.",
}


def _list_of(schema: Json) -> Json:
    return {"type": "array", "items": schema}


_DAMAGED: Final[Json] = {
    **_list_of(_STRING),
    "description": "Paths of which nobody can tell more: it is damaged. Only if there are any.",
}


def _map_of(schema: Json) -> Json:
    return {"type": "object", "additionalProperties": schema}


SCHEMAS: Final[Mapping[str, Json]] = {
    "Refusal": _fixed(error={**_STRING, "description": "What is wrong, and what is allowed."}),
    "Listed": _fixed(
        path=_STRING,
        size={**_NUMBER, "description": "bytes"},
        type=_STRING,
        etag=_STRING,
        modified={"type": ["string", "null"], "format": "date-time"},
    ),
    "Page": {
        "type": "object",
        "properties": {
            "files": _list_of({"$ref": "#/components/schemas/Listed"}),
            "folders": {**_list_of(_STRING), "description": "only with a delimiter"},
            "damaged": _DAMAGED,
            "next": _NEXT,
        },
        "required": ["files", "next"],
    },
    "Statistics": {
        **_ANY_OBJECT,
        "description": "What each store says of itself, by its address; with detail=full below"
        " storages, beside webserver.",
    },
    "Counters": {**_ANY_OBJECT, "description": "Counters by their names."},
    "Migration": _fixed(
        state={**_STRING, "description": "old, both, new, or back: on the way back to old."},
        since={"type": ["string", "null"], "format": "date-time"},
        copied=_BOOLEAN,
    ),
    "Description": {**_ANY_OBJECT, "required": ["openapi", "paths"]},
    "Alive": _fixed(alive=_BOOLEAN),
    "Ready": _fixed(("ready", "stores"), ready=_BOOLEAN, stores=_map_of(_STRING), error=_STRING),
    "Stored": _fixed(stores={**_map_of(_STRING), "description": "What became of it, by store."}),
    "Folder": _list_of(
        {
            "type": "object",
            "properties": {
                "name": _STRING,
                "type": {"enum": ["file", "directory", "other"]},
                "damaged": {"const": True, "description": "of a file: nobody can tell more"},
                "mtime": _STRING,
                "size": _NUMBER,
                "version": _NUMBER,
                "digest": _STRING,
            },
            "required": ["name", "type"],
        }
    ),
    "Index": _fixed(
        ("files", "next"),
        files=_list_of(_fixed(path=_STRING, size=_NUMBER)),
        damaged=_DAMAGED,
        next=_NEXT,
    ),
    "Missing": _fixed(
        missing=_list_of(
            _fixed(
                store=_STRING,
                path={"type": ["string", "null"]},
                version=_NUMBER,
                day={"type": ["string", "null"]},
            )
        ),
        next=_NEXT,
    ),
    "Blob": _fixed(id=_BLOB_ID, status={"const": "OK"}, size=_NUMBER),
    "BlobIds": _list_of(_BLOB_ID),
    "Object": _fixed(
        id=_ULID,
        name=_STRING,
        size=_NUMBER,
        timestamp={**_NUMBER, "description": "nanoseconds since 1970"},
        user_meta=_map_of(_STRING),
        is_symlink=_BOOLEAN,
        consistency={"enum": list(LEVELS)},
        is_deleted=_BOOLEAN,
        is_fetched=_BOOLEAN,
    ),
    "ObjectStatistics": _fixed(disk_stats=_ANY_OBJECT, sfss=_ANY_OBJECT),
}
"""Schemas of JSON answers."""
