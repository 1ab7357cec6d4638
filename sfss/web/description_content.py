"""What is said of the routes of the faces "upload", "fetch", "blobs" and "objects". Pure."""

from collections.abc import Mapping
from typing import Final

from sfss.web.description_parts import CONDITIONS, KEEPS, READING, READS, TEXT, WRITING
from sfss.web.description_terms import (
    DATED,
    FORM,
    Answer,
    Entry,
    Key,
    Link,
    file_answers,
    json_answer,
    removal,
    text_answer,
)

_ID: Final = "$request.path.id"

_READ_BLOB: Final = ("GET", "/blob/*")
_REMOVE_BLOB: Final = ("DELETE", "/blob/*")
_FETCH: Final = ("GET", "/fetch/*")
_X_FIELDS: Final = (
    "Fields of the request that begin with X- are kept with it, and come back with it; X-Mime-Type"
    " says its type."
)

BLOBS: Final[Mapping[Key, Entry]] = {
    ("POST", "/upload"): Entry(
        {200: json_answer("It is kept under this id, its digest.", "Blob")},
        KEEPS,
        True,
        WRITING,
        {"fetch": Link(_FETCH, "blob_file", "$response.body#/id")},
        'curl --data-binary @photo.jpg -H "X-Mime-Type: image/jpeg" "$SFSS_URL/upload"',
        f"{FORM} {_X_FIELDS}",
    ),
    _FETCH: Entry(
        file_answers("X-Content-Type-Options", may=("Cache-Control",)),
        ("blob_file", *READS),
        refusals=READING,
        example='curl "$SFSS_URL/fetch/$ID.jpg"',
    ),
    ("GET", "/alive"): Entry(
        {200: text_answer("This process answers.")}, example='curl "$SFSS_URL/alive"'
    ),
    ("GET", "/blobs"): Entry(
        {200: json_answer("All ids, in byte order.", "BlobIds")},
        refusals=(501, 504, 507),
        links={"read": Link(_READ_BLOB, "blob", "$response.body#/0")},
        example='curl "$SFSS_URL/blobs"',
    ),
    _READ_BLOB: Entry(
        file_answers(may=("Cache-Control",)),
        ("blob", *READS),
        refusals=READING,
        links={"remove": Link(_REMOVE_BLOB, "blob", _ID)},
        example='curl "$SFSS_URL/blob/$ID"',
    ),
    ("POST", "/blob/*"): Entry(
        {200: json_answer("It is kept.", "Blob")},
        ("blob", *KEEPS, *CONDITIONS),
        True,
        (404, *WRITING),
        {
            "read": Link(_READ_BLOB, "blob", "$response.body#/id"),
            "remove": Link(_REMOVE_BLOB, "blob", "$response.body#/id"),
        },
        'curl --data-binary @photo.jpg "$SFSS_URL/blob/$ID"',
        f"400 if the id is the digest of something else. {FORM} {_X_FIELDS}",
    ),
    _REMOVE_BLOB: removal(Link(_READ_BLOB, "blob", _ID), 'curl -X DELETE "$SFSS_URL/blob/$ID"'),
}

_API: Final = "/api/v1"
_READ_OBJECT: Final = ("GET", f"{_API}/get/*")
_META: Final = ("GET", f"{_API}/meta/*")
_DELETE_OBJECT: Final = ("POST", f"{_API}/delete/*")
_OF_OBJECT: Final = ("X-Meta-Id", "X-Meta-Consistencylevel")
_OF_SOME: Final = ("X-Meta-Name", "X-Meta-Usermeta")

OBJECTS: Final[Mapping[Key, Entry]] = {
    ("GET", f"{_API}/ping"): Entry(
        {200: text_answer("The name of this member.")},
        refusals=(409,),
        example=f'curl "$SFSS_URL{_API}/ping"',
    ),
    ("GET", f"{_API}/id"): Entry(
        {200: Answer("A new ULID.", {TEXT: None}, ("Cache-Control",))},
        example=f'curl "$SFSS_URL{_API}/id"',
    ),
    ("GET", f"{_API}/version"): Entry(
        {200: text_answer("The version.")}, example=f'curl "$SFSS_URL{_API}/version"'
    ),
    ("GET", f"{_API}/stats"): Entry(
        {200: json_answer("The disk, in bytes, and counters.", "ObjectStatistics")},
        refusals=(409, 504),
        example=f'curl "$SFSS_URL{_API}/stats"',
    ),
    ("POST", f"{_API}/put"): Entry(
        {200: json_answer("It is kept.", "Object", "ETag", may=DATED)},
        ("object_to_put", "object_name", "object_level", "object_user", *KEEPS, *CONDITIONS),
        True,
        WRITING,
        {
            "read": Link(_READ_OBJECT, "object", "$response.body#/id"),
            "meta": Link(_META, "object", "$response.body#/id"),
            "delete": Link(_DELETE_OBJECT, "object", "$response.body#/id"),
        },
        'curl --data-binary @photo.jpg -H "X-Meta-ID: $ID" -H "X-Meta-Name: photo.jpg"'
        f' "$SFSS_URL{_API}/put"',
        FORM,
    ),
    _READ_OBJECT: Entry(
        file_answers(*_OF_OBJECT, may=(*_OF_SOME, "X-Meta-Symlink", "X-Meta-Fetched")),
        ("object", "fetch", *READS),
        refusals=(409, *READING),
        links={"delete": Link(_DELETE_OBJECT, "object", _ID)},
        example=f'curl "$SFSS_URL{_API}/get/$ID" -o copy.jpg',
        more="Of an object that was deleted, 404 with X-Meta-Deleted: true.",
    ),
    _META: Entry(
        {200: json_answer("What is known of it.", "Object")},
        ("object",),
        refusals=(404, 409, 504),
        example=f'curl "$SFSS_URL{_API}/meta/$ID"',
    ),
    _DELETE_OBJECT: Entry(
        {200: json_answer("It is deleted.", "Object", *_OF_OBJECT, "X-Meta-Deleted", may=_OF_SOME)},
        ("object", "fetch"),
        refusals=(404, 409, 504, 507),
        links={
            "read": Link(_READ_OBJECT, "object", _ID),
            "meta": Link(_META, "object", _ID),
        },
        example=f'curl -X POST "$SFSS_URL{_API}/delete/$ID"',
        more="The same where it was deleted before.",
    ),
}
