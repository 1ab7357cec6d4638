"""The OpenAPI description as a page to read, made here as HTML: it needs no script. Pure.

One section a face, one card an operation: what it takes, a command to try it, what it answers. What
any request may be refused with stands once, at the end.
"""

import re
from collections.abc import Container, Iterable, Iterator, Mapping
from html import escape
from typing import Final, NamedTuple

from sfss.web.description_parts import ALWAYS, REFUSALS, Json
from sfss.web.openapi import MORE_METHODS, SAMPLES

_CLASSES: Final = {"DELETE": " removes", "PUT": " changes", "POST": " changes", "MOVE": " changes"}
_BOUNDS: Final = (
    ("minimum", "from {}"),
    ("maximum", "up to {}"),
    ("maxLength", "up to {} characters"),
    ("default", "{} if not given"),
)


class _Operation(NamedTuple):
    """One card: the methods (HEAD beside GET), the address, and what is said of it."""

    methods: tuple[str, ...]
    address: str
    said: Json

    @property
    def anchor(self) -> str:
        return str(self.said["operationId"])


def page(document: Json) -> bytes:
    """Return the page that shows an OpenAPI ``document``, as UTF-8."""
    shown = {tag["name"]: _operations(document, tag["name"]) for tag in document["tags"]}
    about = {tag["name"]: tag["description"] for tag in document["tags"]}
    parts = [
        _head(document["paths"]),
        _contents(shown),
        '<main id="main">\n',
        _introduction(document),
        *(_face(document, face, about[face], each) for face, each in shown.items()),
        _refusals(),
        "</main></div></body></html>\n",
    ]
    return "".join(parts).encode()


_HEAD: Final = """\
<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>API of sfss</title>
<link rel="stylesheet" href="common.css"><link rel="stylesheet" href="page.css">{icon}</head>
<body><a class="skip button" href="#main">To the text</a>
<header class="top"><span class="brand">sfss</span>
<nav aria-label="Pages">{pages}<a href="./" aria-current="page">API</a>\
<a href="../openapi.json">openapi.json</a></nav></header>
<div class="reader">
"""
_PAGES: Final = {"browse": "Files", "status": "Status"}
"""The other pages for people, by the folders that they are in."""


def _head(paths: Container[str]) -> str:
    """Return what is before the contents: with links to those pages that are shown beside it."""
    shown = {page: name for page, name in _PAGES.items() if f"/{page}/{{name}}" in paths}
    links = (f'<a href="../{page}/">{name}</a>' for page, name in shown.items())
    icons = (f'<link rel="icon" href="../{page}/icon.svg" type="image/svg+xml">' for page in shown)
    return _HEAD.format(pages="".join(links), icon=next(icons, ""))


def _operations(document: Json, face: str) -> list[_Operation]:
    """Return what belongs to a ``face``, but how pages look."""
    return [
        operation
        for address, item in document["paths"].items()
        if not address.endswith(".css")
        for operation in _of_path(address, item)
        if face in operation.said["tags"]
    ]


def _of_path(address: str, item: Mapping[str, Json]) -> Iterator[_Operation]:
    for method, said in item.items():
        if method == MORE_METHODS:
            yield from (_Operation((each,), address, more) for each, more in said.items())
        elif method == "get":
            yield _Operation(("GET", "HEAD"), address, said)
        elif method != "head":
            yield _Operation((method.upper(),), address, said)


def _contents(shown: Mapping[str, Iterable[_Operation]]) -> str:
    lines = ['<nav class="contents" aria-label="Contents">\n']
    for face, operations in shown.items():
        lines.append(f'<h2><a href="#face-{escape(face)}">{escape(face)}</a></h2>\n<ul>\n')
        lines += (
            f'<li><a href="#{each.anchor}">{each.methods[0]} {escape(each.address)}</a></li>\n'
            for each in operations
        )
        lines.append("</ul>\n")
    return "".join([*lines, '<h2><a href="#refusals">Refusals</a></h2>\n</nav>\n'])


def _introduction(document: Json) -> str:
    paragraphs = document["info"]["description"].split("\n\n")
    return (
        f"<section><h1>API of sfss {escape(document['info']['version'])}</h1>\n"
        + "".join(f"<p>{_marked(each)}</p>\n" for each in paragraphs)
        + "<p>In the commands, SFSS_URL is where this server is:</p>\n"
        + "<pre><code>export SFSS_URL=http://127.0.0.1:8255</code></pre>\n</section>\n"
    )


def _marked(text: str) -> str:
    """Return ``text`` as HTML: what stands in backticks is code."""
    return re.sub("`([^`]*)`", r"<code>\1</code>", escape(text))


def _face(document: Json, face: str, about: str, operations: Iterable[_Operation]) -> str:
    cards = "".join(_card(document, each) for each in operations)
    heading = f'<h2 id="face-{escape(face)}">{escape(face)}</h2>'
    return f'<section>{heading}\n<p class="soft">{escape(about)}</p>\n{cards}</section>\n'


def _card(document: Json, operation: _Operation) -> str:
    methods, said = operation.methods, operation.said
    labels = "".join(f'<span class="method{_CLASSES.get(m, "")}">{m}</span>' for m in methods)
    description = said.get("description", "")
    return "".join(
        [
            f'<article class="card" id="{operation.anchor}">',
            f"<h3>{labels}<code>{escape(operation.address)}</code></h3>\n",
            f"<p>{escape(_sentence(said['summary']))} {_marked(description)}</p>\n",
            *(
                f"<pre><code>{escape(each['source'])}</code></pre>\n"
                for each in said.get(SAMPLES, ())
            ),
            _arguments(document, said),
            _answers(said),
            "</article>\n",
        ]
    )


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


def _list(title: str, rows: Iterable[tuple[str, str]]) -> str:
    lines = "".join(f"<dt>{name}</dt><dd>{text}</dd>\n" for name, text in rows)
    return f"<h4>{title}</h4>\n<dl>{lines}</dl>\n" if lines else ""


def _arguments(document: Json, said: Json) -> str:
    known = document["components"].get("parameters", {})
    found = [known[each["$ref"].rpartition("/")[2]] for each in said["parameters"]]
    rows = [(_argument(each), _explained(each)) for each in found]
    if body := said.get("requestBody"):
        rows.append(("the body", escape(body["description"])))
    return _list("Takes", rows)


def _argument(argument: Json) -> str:
    places = {"query": "?{}=", "path": "{{{}}}", "header": "{}:"}
    name = places[argument["in"]].format(argument["name"])
    return f"<code>{escape(name)}</code>" + (" (needed)" if argument.get("required") else "")


def _explained(argument: Json) -> str:
    schema = argument["schema"]
    allowed = [text.format(schema[name]) for name, text in _BOUNDS if name in schema]
    if "enum" in schema:
        allowed.insert(0, f"one of {', '.join(map(str, schema['enum']))}")
    text = _marked(argument["description"])
    return f'{text}<span class="allowed">{escape(", ".join(allowed))}</span>' if allowed else text


def _answers(said: Json) -> str:
    rows = [
        (f"<code>{status}</code>", _answer(response))
        for status, response in said["responses"].items()
        if "$ref" not in response
    ]
    refused = sorted(int(each) for each, found in said["responses"].items() if "$ref" in found)
    own = [each for each in refused if each not in ALWAYS]
    links = ", ".join(f'<a href="#refusal-{each}">{each}</a>' for each in own)
    rows += [
        ('<span class="soft">refusals</span>', f'<span class="refusals">{links}</span>')
    ] * bool(own)
    return _list("Answers", rows)


def _answer(response: Json) -> str:
    types = [each for each in response.get("content", {}) if each != "*/*"]
    fields = [name for name in response["headers"] if name != "X-Request-ID"]
    more = [f"as {', '.join(types)}"] * bool(types) + [f"with {', '.join(fields)}"] * bool(fields)
    text = _marked(response["description"])
    return f'{text}<span class="allowed">{escape("; ".join(more))}</span>' if more else text


def _refusals() -> str:
    rows = []
    for status, (says, fields) in REFUSALS.items():
        more = [f"with {', '.join(fields)}"] if fields else []
        more += ["any request may be refused so"] if status in ALWAYS else []
        text = f'{escape(says)}<span class="allowed">{escape("; ".join(more))}</span>'
        rows.append((f'<code id="refusal-{status}">{status}</code>', text))
    return f'<section><h2 id="refusals">Refusals</h2>\n{_list("Statuses", rows)}</section>\n'
