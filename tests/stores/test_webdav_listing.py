"""Listings of folders, as nginx and others write them, and as nobody should."""

import pytest

from sfss.stores.webdav_listing import Thing, things_in_json, things_in_xml
from sfss.stores.webdav_node import File

DATE = "Tue, 14 Nov 2023 22:13:20 GMT"
FILE = File(4, 1_700_000_000)


def response(href: str, *properties: str) -> str:
    """Return what PROPFIND says of one thing."""
    return (
        f"<D:response><D:href>{href}</D:href><D:propstat><D:prop>{''.join(properties)}</D:prop>"
        "<D:status>HTTP/1.1 200 OK</D:status></D:propstat></D:response>"
    )


FOLDER = "<D:resourcetype><D:collection/></D:resourcetype>"
PLAIN = (
    f"<D:resourcetype/><D:getcontentlength>4</D:getcontentlength>"
    f"<D:getlastmodified>{DATE}</D:getlastmodified>"
)


def listing(*responses: str, begin: str = '<?xml version="1.0" encoding="utf-8"?>') -> bytes:
    """Return an answer to PROPFIND."""
    text = f'{begin}<D:multistatus xmlns:D="DAV:">{"".join(responses)}</D:multistatus>'
    return text.encode()


def test_what_propfind_shows() -> None:
    text = listing(
        response("/f/a%20b/", FOLDER),
        response("/f/a%20b/z", PLAIN),
        response("http://any.host/f/a%20b/sub%2B/", FOLDER),
        response("/f/a%20b/%C3%A4%23%25", PLAIN),
        response("/f/a%20b/no-slash", FOLDER),
    )
    assert things_in_xml(text, b"/f/a b/") == [
        Thing(b"no-slash/", None),
        Thing(b"sub+/", None),
        Thing(b"z", FILE),
        Thing("ä#%".encode(), FILE),
    ]


@pytest.mark.parametrize("name", ["..", ".", ".hidden", "a%2Fb", "a%00b", "%FF", "a%5Cb", "a%0Ab"])
def test_names_that_nobody_could_ask_for_are_left_out(name: str) -> None:
    text = listing(
        response(f"/{name}", PLAIN), response(f"/{name}/", FOLDER), response("/z", PLAIN)
    )
    assert things_in_xml(text, b"/") == [Thing(b"z", FILE)]


ENTITIES = '<!DOCTYPE a [<!ENTITY b "c"><!ENTITY d SYSTEM "file:///etc/passwd">]>'


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"<a>",
        listing("<x>"),
        listing(begin=ENTITIES),
        listing(response("/&lt;", PLAIN), begin=ENTITIES),
        listing(begin=ENTITIES).decode().encode("utf-16"),
        b'<?xml version="1.0" encoding="utf-7"?>+ADwAIQ-DOCTYPE a+AD4-',
        listing("ä").replace(b"\xc3", b""),
        listing(response("/elsewhere", PLAIN)),
        listing(response("/f/a", "<D:resourcetype/>")),
        listing(response("/f/a", PLAIN.replace(">4<", ">-4<"))),
        listing(response("/f/a", PLAIN.replace(">4<", ">٤<"))),
        listing(response("/f/a", PLAIN.replace("GMT", "UTC"))),
        listing(response("/f/a&unknown;", PLAIN)),
        listing(response("http://[/f/a", PLAIN)),
    ],
)
def test_what_is_no_listing_in_xml(text: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        things_in_xml(text, b"/f/")


def test_what_autoindex_shows() -> None:
    text = f"""[
{{ "name":"sub", "type":"directory", "mtime":"{DATE}" }},
{{ "name":"z", "type":"file", "mtime":"{DATE}", "size":4 }},
{{ "name":"a \\"b\\" %20", "type":"file", "mtime":"{DATE}", "size":4 }},
{{ "name":"pipe", "type":"other", "mtime":"{DATE}" }},
{{ "name":"..", "type":"directory", "mtime":"{DATE}" }},
{{ "name":"a/b", "type":"file", "mtime":"{DATE}", "size":4 }},
{{ "name":"\\ud800", "type":"file", "mtime":"{DATE}", "size":4 }},
{{ "name":"?", "type":"file", "mtime":"{DATE}", "size":4 }}
]""".encode().replace(b'"?"', b'"\xff"')
    assert things_in_json(text, b"") == [
        Thing(b'a "b" %20', FILE),
        Thing(b"sub/", None),
        Thing(b"z", FILE),
    ]


def test_an_empty_folder() -> None:
    assert things_in_json(b"[\r\n]", b"") == []
    assert things_in_xml(listing(response("/f/", FOLDER)), b"/f/") == []


@pytest.mark.parametrize(
    "entry",
    [
        "1",
        "null",
        "[]",
        "{}",
        '{"name":null}',
        f'{{"name":"a","type":"file","mtime":"{DATE}"}}',
        f'{{"name":"a","type":"file","mtime":"{DATE}","size":-1}}',
        f'{{"name":"a","type":"file","mtime":"{DATE}","size":true}}',
        f'{{"name":"a","type":"file","mtime":"{DATE}","size":1.0}}',
        f'{{"name":"a","type":"file","mtime":"{DATE}","size":1e300}}',
        '{"name":"a","type":"file","mtime":"today","size":1}',
        '{"name":"a","type":"file","mtime":"ä","size":1}',
        '{"name":"a","type":"file","size":1}',
    ],
)
def test_what_is_no_listing_in_json(entry: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        things_in_json(f"[{entry}]".encode(), b"")
