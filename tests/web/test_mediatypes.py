"""Content-Type from the path."""

import mimetypes

import pytest

from sfss.web.mediatypes import guess


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("a.txt", "text/plain"),
        ("a/b.JPG", "image/jpeg"),
        ("a.html", "text/html"),
        ("a.mp3", "audio/mpeg"),
        ("a.webp", "image/webp"),
        ("a.woff2", "font/woff2"),
        ("a.md", "text/markdown"),
        ("a.rst", "text/x-rst"),
        ("a.cfg", "text/plain"),
        ("a.conf", "text/plain"),
        ("a.ini", "text/plain"),
        ("a.toml", "application/toml"),
        ("a.mjs", "text/javascript"),
        ("a.jsonl", "application/jsonl"),
        ("a.tar.gz", "application/gzip"),
        ("a.tgz", "application/gzip"),
        ("a.html.gz", "application/gzip"),
        ("a.tar.bz2", "application/x-bzip2"),
        ("a.xz", "application/x-xz"),
        ("a.br", "application/octet-stream"),
        ("a.unknown", "application/octet-stream"),
        ("a", "application/octet-stream"),
        ("a.txt/b", "application/octet-stream"),
        (".png", "application/octet-stream"),
        ("data:text/html,x", "application/octet-stream"),
        ("data:text/html;x,y.png", "image/png"),
        ("http://host/a.png?x.html", "text/html"),
        ("a.png#.txt", "text/plain"),
    ],
)
def test_types(path: str, expected: str) -> None:
    assert guess(path) == expected


def test_the_machine_has_no_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(mimetypes.types_map, ".txt", "x/machine")
    assert guess("a.txt") == "text/plain"
