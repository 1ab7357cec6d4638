"""The OpenAPI 3.1 description of what a listener shows, made from its routes and from what is said
of each (``description``). Pure.

OpenAPI 3.1 knows no other methods than GET, PUT, POST, DELETE, OPTIONS, HEAD, PATCH and TRACE:
those of WebDAV stand in the extension ``x-additionalOperations`` of their path, in the form of
``additionalOperations`` of OpenAPI 3.2.
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Final

from sfss import __version__
from sfss.web.description import ENTRIES, FACES, FOLDER
from sfss.web.description_parts import (
    ALWAYS,
    ARGUMENTS,
    HEADERS,
    JSON,
    REFUSALS,
    SCHEMAS,
    TEXT,
    Json,
)
from sfss.web.description_terms import Answer, Entry, Key, Link
from sfss.web.http import Shown

METHODS: Final = frozenset({"GET", "PUT", "POST", "DELETE", "OPTIONS", "HEAD", "PATCH", "TRACE"})
"""The methods that OpenAPI 3.1 knows."""

MORE_METHODS: Final = "x-additionalOperations"
SAMPLES: Final = "x-codeSamples"

_TOKEN: Final = "token"
_STATUSES: Final = re.compile(r": [0-9]{3}(, [0-9]{3})*$")
_ABOUT: Final = """\
A store for small files. Refusals are `{"error": "what is wrong, and what is allowed"}`, or that \
sentence as text for curl and for whoever asks for text first in Accept; where there is no such \
choice, only JSON is described.

Whatever can be asked by GET can be asked by HEAD. Every request may have a field `X-Request-ID`, \
which comes back, and stands in the logs. An address that is not known is 404, a method that means \
nothing there is 405 with `Allow`. Methods of WebDAV, which OpenAPI 3.1 has no place for, are in \
`x-additionalOperations`.

Whether a token is needed, and what it allows, is a matter of the settings; signed URLs have the \
arguments `expires`, `key` and `signature` besides those that are described."""


def document(shown: Sequence[Shown]) -> Json:
    """Return the description of the routes ``shown``, as JSON is in Python."""
    paths: Json = {}
    for route in described(shown):
        entry = ENTRIES[route.method, route.address]
        item = paths.setdefault(path_of(route.address, entry), {})
        _add(item, route.method, _operation(route, entry, shown))
        if route.method == "GET":
            _add(item, "HEAD", _as_head(_operation(route, entry, shown)))
    faces = dict.fromkeys(route.face for route in shown)
    found: Json = {
        "openapi": "3.1.0",
        "info": {
            "title": "sfss",
            "summary": "A store for small files",
            "description": _ABOUT,
            "license": {"name": "BSD 3-Clause", "identifier": "BSD-3-Clause"},
            "version": __version__,
        },
        "servers": [{"url": "/"}],
        "tags": [{"name": face, "description": FACES[face]} for face in faces],
        "paths": paths,
    }
    return {**found, "components": _components(json.dumps(paths))}


def described(shown: Sequence[Shown]) -> list[Shown]:
    """Return what there are entries for: the routes ``shown``, and those that mean something else
    where a folder is named once more.
    """
    found: list[Shown] = []
    for route in shown:
        found.append(route)
        if f"{route.address}/" == FOLDER and (route.method, FOLDER) in ENTRIES:
            found.append(route._replace(address=FOLDER))
    return found


def path_of(address: str, entry: Entry) -> str:
    """Return the address of a route as OpenAPI writes it: "*" is an argument with a name."""
    names = [ARGUMENTS[each]["name"] for each in entry.takes if ARGUMENTS[each]["in"] == "path"]
    return address.replace("*", f"{{{names[0]}}}") if names else address


def _add(item: Json, method: str, operation: Json) -> None:
    if method in METHODS:
        item[method.lower()] = operation
    else:
        item.setdefault(MORE_METHODS, {})[method] = operation


def operation_id(key: Key) -> str:
    """Return the name of an operation, which is a name in most languages, too."""
    method, address = key
    return method.lower() + re.sub("[^a-z0-9]", "_", address.replace("*", "any"))


def _operation(route: Shown, entry: Entry, shown: Sequence[Shown]) -> Json:
    refusals = sorted({*ALWAYS, *entry.refusals} - set(entry.answers))
    refused_as = "JsonRefusal" if route.only_json else "Refusal"
    found: Json = {
        "operationId": operation_id((route.method, route.address)),
        "tags": [route.face],
        "summary": entry.summary or _STATUSES.sub("", route.summary.rpartition("  ")[2].strip()),
        "security": [{_TOKEN: []}] if entry.needs_token else [{}, {_TOKEN: []}],
        "parameters": [_reference("parameters", each) for each in entry.takes],
        "responses": {
            **{str(status): _response(answer) for status, answer in entry.answers.items()},
            **{str(each): _reference("responses", f"{refused_as}{each}") for each in refusals},
        },
    }
    if entry.more:
        found["description"] = entry.more
    if entry.takes_file:
        found["requestBody"] = _FILE
    if entry.example:
        found[SAMPLES] = [{"lang": "Shell", "label": "curl", "source": entry.example}]
    _add_links(found["responses"], entry, {(each.method, each.address) for each in shown})
    return found


def _as_head(operation: Json) -> Json:
    """Return the operation HEAD that goes with a GET."""
    responses = {
        status: {name: each for name, each in response.items() if name != "links"}
        for status, response in operation["responses"].items()
        if status != "206"  # a range means something for GET only
    }
    return {
        **{name: each for name, each in operation.items() if name != SAMPLES},
        "operationId": operation["operationId"].replace("get", "head", 1),
        "summary": f"the head of: {operation['summary']}",
        "responses": responses,
    }


def _reference(kind: str, name: str) -> Json:
    return {"$ref": f"#/components/{kind}/{name}"}


def _response(answer: Answer) -> Json:
    found: Json = {"description": answer.says, "headers": _fields(answer.fields, answer.may)}
    if answer.types:
        found["content"] = {
            media_type: {"schema": _reference("schemas", schema)} if schema else {}
            for media_type, schema in answer.types.items()
        }
    return found


def _fields(certain: Sequence[str], possible: Sequence[str]) -> Json:
    return {
        **{name: {**HEADERS[name], "required": True} for name in certain},
        **{name: _reference("headers", name) for name in (*possible, "X-Request-ID")},
    }


_FILE: Final[Json] = {
    "description": "The file, with Content-Length or in chunks, not compressed. Without a byte it"
    " is an empty one. Content-Type, whatever it is, is kept with it.",
    "required": False,
    "content": {
        "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "properties": {"file": {"type": "string", "format": "binary"}},
                "required": ["file"],
            }
        },
    },
}


def _add_links(responses: Json, entry: Entry, known: set[Key]) -> None:
    """Say in each answer that is no refusal what can be done next."""
    links = {name: _link(link) for name, link in entry.links.items() if link.key in known}
    for status in entry.answers:
        if links and 200 <= status < 300:
            responses[str(status)]["links"] = links


def _link(link: Link) -> Json:
    argument = ARGUMENTS[link.argument]
    name = f"{argument['in']}.{argument['name']}"
    return {"operationId": operation_id(link.key), "parameters": {name: link.value}}


def _refusals() -> Json:
    schema = {"schema": _reference("schemas", "Refusal")}
    found: Json = {}
    for status, (says, possible) in REFUSALS.items():
        each = {"description": says, "headers": _fields((), possible)}
        found[f"Refusal{status}"] = {**each, "content": {JSON: schema, TEXT: {}}}
        found[f"JsonRefusal{status}"] = {**each, "content": {JSON: schema}}
    return found


def _components(paths: str) -> Json:
    """Return the components to which the text ``paths`` refers, and those to which they do."""
    known: Mapping[str, Mapping[str, Json]] = {
        "schemas": SCHEMAS,
        "parameters": ARGUMENTS,
        "headers": HEADERS,
        "responses": _refusals(),
    }
    found: Json = {}
    texts = [paths]
    while texts:
        for kind, name in re.findall(r'"#/components/(\w+)/([\w-]+)"', texts.pop()):
            if name not in found.setdefault(kind, {}):
                found[kind][name] = known[kind][name]
                texts.append(json.dumps(known[kind][name]))
    found["securitySchemes"] = {
        _TOKEN: {
            "type": "http",
            "scheme": "bearer",
            "description": "Authorization: Bearer TOKEN, where the settings ask for it.",
        }
    }
    return found
