"""Content-Type from the path, the same on every machine: the system's mime.types is not read."""

from mimetypes import MimeTypes
from typing import Final

DEFAULT: Final = "application/octet-stream"

_KNOWN: Final = MimeTypes()
"""A database of its own holds the standard library's table alone."""

_ADDED: Final = {
    ".aac": "audio/aac",
    ".apng": "image/apng",
    ".avif": "image/avif",
    ".cfg": "text/plain",
    ".conf": "text/plain",
    ".docx": "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
    ".epub": "application/epub+zip",
    ".flac": "audio/flac",
    ".ico": "image/x-icon",
    ".ini": "text/plain",
    ".js": "text/javascript",
    ".jsonl": "application/jsonl",
    ".log": "text/plain",
    ".m4a": "audio/mp4",
    ".md": "text/markdown",
    ".mjs": "text/javascript",
    ".mkv": "video/matroska",
    ".odt": "application/vnd.oasis.opendocument.text",
    ".oga": "audio/ogg",
    ".ogg": "audio/ogg",
    ".ogv": "video/ogg",
    ".otf": "font/otf",
    ".pptx": "application/vnd.openxmlformats-officedocument.presentationml.presentation",
    ".rst": "text/x-rst",
    ".rtf": "application/rtf",
    ".toml": "application/toml",
    ".ttf": "font/ttf",
    ".wav": "audio/wav",
    ".webm": "video/webm",
    ".webp": "image/webp",
    ".woff": "font/woff",
    ".woff2": "font/woff2",
    ".xlsx": "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
    ".yaml": "application/yaml",
    ".yml": "application/yaml",
    ".7z": "application/x-7z-compressed",
    ".zst": "application/zstd",
}
for _suffix, _type in _ADDED.items():
    _KNOWN.add_type(_type, _suffix)

_COMPRESSED: Final = {
    "gzip": "application/gzip",
    "bzip2": "application/x-bzip2",
    "xz": "application/x-xz",
    "compress": "application/x-compress",
}


def guess(path: str) -> str:
    """Return the media type that the end of ``path`` stands for.

    A compressed file has the type of its compression: whoever stored ``a.tar.gz`` wants that back,
    and Content-Encoding would make browsers unpack it.
    """
    # Without "./", a path such as "data:text/html,x" would be read as a URL of that scheme.
    found, coding = _KNOWN.guess_type(f"./{path}")
    return _COMPRESSED.get(coding, DEFAULT) if coding else found or DEFAULT
