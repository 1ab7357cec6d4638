"""In which words routes are described: what an entry is, and the answers that many give. Pure."""

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple, TypeAlias

from sfss.web.description_parts import ANY_TYPE, CONDITIONS, JSON, REMOVING, TEXT, WRITING

Key: TypeAlias = tuple[str, str]


class Answer(NamedTuple):
    """An answer that is no refusal: what it says; its media types, with the schema of each if any;
    which header fields it has for certain, and which it may have.
    """

    says: str
    types: Mapping[str, str | None] = {}
    fields: Sequence[str] = ()
    may: Sequence[str] = ()


class Link(NamedTuple):
    """What can be done next: the ``key`` of another entry, with an argument of it (by our name) and
    where the value is, as a runtime expression of OpenAPI.
    """

    key: Key
    argument: str
    value: str


class Entry(NamedTuple):
    """What is said of one route: which arguments it takes (by our names), whether it takes a file
    for its body, what it answers, how it refuses, what can be
    done next by name, a command to try it, where SFSS_URL is that of the server, and more text;
    and a summary, where it is not that of the route.
    """

    answers: Mapping[int, Answer]
    takes: Sequence[str] = ()
    takes_file: bool = False
    refusals: Sequence[int] = ()
    links: Mapping[str, Link] = {}
    example: str = ""
    more: str = ""
    needs_token: bool = False
    summary: str = ""


STATE: Final = ("ETag",)
DATED: Final = ("Last-Modified",)
BYTES: Final[Mapping[str, str | None]] = {ANY_TYPE: None}


def json_answer(says: str, schema: str, *fields: str, may: Sequence[str] = ()) -> Answer:
    """Return an answer in JSON of this ``schema``, with header ``fields``."""
    return Answer(says, {JSON: schema}, fields, may)


def text_answer(says: str) -> Answer:
    """Return an answer that is text."""
    return Answer(says, {TEXT: None})


def file_answers(*fields: str, may: Sequence[str] = ()) -> dict[int, Answer]:
    """Return the answers of whoever shows a file with the header ``fields``."""
    possible = ("Last-Modified", "Expires", *may)
    return {
        200: Answer("The file.", BYTES, ("ETag", "Accept-Ranges", *fields), possible),
        206: Answer(
            "The range; of several, as multipart/byteranges.",
            BYTES,
            ("ETag", "Accept-Ranges", *fields),
            ("Content-Range", *possible),
        ),
        304: Answer("It is as the client has it.", {}, STATE, possible),
    }


def removal(read: Link, example: str) -> Entry:
    """Return the entry of what removes the file that ``read`` leads to."""
    takes = (read.argument, *CONDITIONS)
    return Entry(
        {204: Answer("It is gone.")},
        takes,
        refusals=REMOVING,
        links={"read": read},
        example=example,
    )


def transfer(done: str, example: str, more: str) -> Entry:
    """Return the entry of what brings a file to another path, where it is then ``done``."""
    fields = ("ETag", "Location")
    return Entry(
        {
            201: Answer(f"It is {done}.", {}, fields),
            204: Answer(f"It is {done}, over another.", {}, fields),
        },
        ("url_path",),
        refusals=(404, *WRITING),
        example=example,
        more=more,
    )


FORM: Final = "A form (multipart/form-data) is taken as its first file."
