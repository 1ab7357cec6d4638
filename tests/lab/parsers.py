"""All that reads bytes of others, with good input for each, and what it may raise.

A parser of a stream is fed twice, whole and in pieces, and has to find the same both times.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, NamedTuple

from sfss import (
    asking,
    blob_ids,
    chunks,
    config_reading,
    errors,
    grants,
    handshake,
    http_text,
    items,
    keys,
    listening,
    member_state,
    member_talk,
    members,
    memtext,
    memtext_commands,
    memtext_listing,
    object_entries,
    record,
    roster,
    signing,
    ulid,
    upload_plan,
)
from sfss.record import Head, Kind, Record, digest_of, new_record
from sfss.stores import blob_fields, blob_listing, webdav_listing
from sfss.web import access, conditional, fast, form, gate, locations, names_kept, object_fields


class Parser(NamedTuple):
    """``read`` is given bytes; it may raise ``raises`` and nothing else. ``good`` is what it can
    read.
    """

    read: Callable[[bytes], object]
    raises: tuple[type[Exception], ...]
    good: tuple[bytes, ...]


def in_pieces(data: bytes) -> Iterator[bytes]:
    """Yield ``data`` in pieces of growing size."""
    start, size = 0, 1
    while start < len(data):
        yield data[start : start + size]
        start, size = start + size, size * 2 + 1


def both_ways(found_in: Callable[[list[bytes]], object]) -> Callable[[bytes], object]:
    """Return a reader that asserts that whole and in pieces the same is found, or refused."""

    def told(pieces: list[bytes]) -> tuple[object, Exception | None]:
        try:
            return found_in(pieces), None
        except Exception as error:
            return None, error

    def read(data: bytes) -> object:
        (whole, error), (cut, error_of_cut) = told([data]), told(list(in_pieces(data)))
        assert type(error) is type(error_of_cut), (error, error_of_cut)
        assert whole == cut, (whole, cut)
        if error is not None:
            raise error
        return whole

    return read


def replies(pieces: list[bytes]) -> object:
    """Read the replies of a memcached."""
    parser, found = memtext.ReplyParser(1000), []
    for piece in pieces:
        parser.feed(piece)
        while (reply := parser.next_reply()) is not None:
            found.append(repr(reply))
    return found


def answers(pieces: list[bytes]) -> object:
    """Read the answers of a memcached to "get k"."""
    parser, found = memtext.AnswerParser(1000), []
    for piece in pieces:
        parser.feed(piece)
        while (answer := parser.next_answer(memtext.GET, [b"k"])) is not None:
            found.append(repr(answer))
    return found


def commands(pieces: list[bytes]) -> object:
    """Read the commands of a client of a node."""
    parser, found = memtext_commands.CommandParser(1000), []
    for piece in pieces:
        parser.feed(piece)
        while (command := parser.next_command()) is not None:
            found.append(repr(command))
    return found


def dump(pieces: list[bytes]) -> object:
    """Read an answer to metadump."""
    parser = memtext_listing.MetadumpParser()
    found = [key for piece in pieces for key in parser.feed(piece)]
    return found, parser.ending


SECRET: Final = "s" * 40
NONCE: Final = bytes(range(handshake.NONCE_SIZE))


def server_lines(pieces: list[bytes]) -> object:
    """Read a client's handshake."""
    side = handshake.ServerHandshake(SECRET, NONCE)
    sent = b"".join(map(side.feed, pieces))
    return sent, side.finished


def client_lines(data: bytes) -> object:
    """Read a server's handshake: a line at a time, for more than was asked for is refused."""
    side = handshake.ClientHandshake(SECRET, NONCE)
    sent = b"".join(map(side.feed, data.splitlines(keepends=True)))
    return sent, side.finished


def shaken() -> tuple[bytes, bytes]:
    """Return what client and server send in a good handshake."""
    client = handshake.ClientHandshake(SECRET, NONCE)
    server = handshake.ServerHandshake(SECRET, NONCE)
    proofs = server.feed(client.request)
    proof = client.feed(proofs)
    return client.request + proof, proofs + server.feed(proof)


def http_answer(pieces: list[bytes]) -> object:
    """Read the answer of an HTTP server."""
    parser = http_text.ResponseParser()
    body = b"".join(map(parser.feed, pieces))
    return parser.head, body, parser.complete


def form_file(pieces: list[bytes]) -> object:
    """Read the file in a form."""
    reader = form.FormReader(b"x1y2")
    found = [part for piece in pieces for part in reader.feed(piece)]
    return b"".join([*found, *reader.finish()]), reader.media_type


def blob_list(pieces: list[bytes]) -> object:
    """Read the list of a blob server."""
    parser = blob_listing.IdList()
    found = [key for piece in pieces for key in parser.feed(piece)]
    parser.finish()
    return found


def text(read: Callable[[str], object]) -> Callable[[bytes], object]:
    """Return a reader of bytes for one of text, as aiohttp makes text of bytes."""
    return lambda data: read(data.decode("utf-8", "surrogateescape"))


def pairs(read: Callable[[Mapping[str, str]], object]) -> Callable[[bytes], object]:
    """Return a reader of bytes for one of fields: a line each, "name: value"."""

    def of(data: bytes) -> object:
        lines = data.decode("utf-8", "surrogateescape").split("\n")
        named = (line.partition(": ") for line in lines)
        return read({name: value for name, _, value in named})

    return of


def metadata(read: Callable[[Head], object]) -> Callable[[bytes], object]:
    """Return a reader of bytes for one of a head: its metadata in JSON."""

    def of(data: bytes) -> object:
        try:
            names = json.loads(data)
        except (ValueError, RecursionError):
            return None
        if not isinstance(names, dict) or not all(isinstance(each, str) for each in names.values()):
            return None
        return read(HEAD._replace(metadata=names, kind=Kind.FILE))

    return of


HEAD: Final = new_record(b"body", 1).head
BODY: Final = b"body" * 10
RECORDS: Final = tuple(
    bytes(record.encode(each))
    for each in (
        new_record(BODY, 1_700_000_000_000_000),
        new_record(b"", 1, {"Content-Type": "a/b"}),
        Record(Head(5, 0, bytes(16), Kind.TOMBSTONE), b""),
    )
)
LAYOUT: Final = chunks.Layout(1_000_000, bytes(16), 522_240, chunks.upload_name(1, 2))
MANIFEST: Final = chunks.manifest(
    HEAD._replace(size=1_000_000, digest=bytes(16)), LAYOUT, [bytes(16), bytes(16)]
)
ENTRY: Final = object_entries.record_of_entry(
    object_entries.Entry(
        "01ARZ3NDEKTSV4RRFFQ69G5FAV",
        object_entries.Traits("name", 1, {"a": "b"}, "a/b", 0),
        4,
        bytes(16),
        1,
        "body",
        bytes(16),
        False,
        False,
    ),
    1,
    0,
).head.metadata
MEMBER: Final = members.Member("10.0.0.1:8255", "a" * 32)
STATE: Final = member_state.State(MEMBER.store, members.alone(MEMBER), None, 1, False, False)


def words(read: Callable[[Any], object]) -> Callable[[bytes], object]:
    """Return a reader of bytes for one of what JSON can say."""

    def of(data: bytes) -> object:
        try:
            found = json.loads(data)
        except (ValueError, RecursionError):
            return None
        return read(found)

    return of


def decode_item(data: bytes) -> object:
    """Read an item whose flags are the first four bytes, as a node is given it."""
    flags = int.from_bytes(data[:4], "big")
    return items.record_of(flags, data[4:], 0, 1)


def signed(query: str) -> object:
    """Check the three arguments of a query, by spaces."""
    expires, name, signature, *_ = [*query.split(" "), "", "", ""]
    claim = signing.Claim(expires, name, signature)
    return signing.check(claim, "GET", "a.txt", {"k": b"s" * 32}, 1.0)


QUERY: Final = signing.signature_of(signing.Signed("GET", "a.txt", 99, "k"), b"s" * 32)
VALIDATORS: Final = conditional.Validators('"abc"', 1_700_000_000)
DATE: Final = b"Tue, 14 Nov 2023 22:13:20 GMT"
XML: Final = (
    b"""<?xml version="1.0"?><D:multistatus xmlns:D="DAV:"><D:response>
<D:href>/f/a</D:href><D:propstat><D:prop><D:getcontentlength>5</D:getcontentlength>
<D:resourcetype/><D:getlastmodified>%b</D:getlastmodified></D:prop></D:propstat></D:response>
<D:response><D:href>/f/b/</D:href><D:propstat><D:prop>
<D:resourcetype><D:collection/></D:resourcetype></D:prop></D:propstat></D:response>
</D:multistatus>"""
    % DATE
)
AUTOINDEX: Final = b"""[{"name": "a", "type": "file", "size": 5, "mtime": "%b"},
{"name": "d", "type": "directory", "mtime": "%b"}]""" % (DATE, DATE)
CHUNKED: Final = b"4;a=b\r\nbody\r\n0\r\nX: y\r\n\r\n"
FORM: Final = (
    b'--x1y2\r\nContent-Disposition: form-data; name="a"; filename="b"\r\nContent-Type: a/b\r\n\r\n'
    b"body\r\n--x1y2--\r\n"
)
REQUEST_FIELDS: Final = (
    b"Host: a\r\nUser-Agent: x\r\nX-Request-ID: a1\r\nConnection: keep-alive\r\n\r\n"
)
ID: Final = b"01ARZ3NDEKTSV4RRFFQ69G5FAV"
TOKEN: Final = grants.write_token("secret", "name", ["read", "list"], ["a b/", "c"], "2030-01-01")
TOML: Final = b"""[cluster]\nkind = "nodes"
[memcached]\nservers = ["a:1", "b:2"]\n[[listen]]\naddress = "a:1"\nfaces = ["paths"]\n"""

PARSERS: Final[Mapping[str, Parser]] = {
    "memcached replies": Parser(
        both_ways(replies),
        (memtext.BadReply,),
        (
            b"VALUE k 1 4\r\nbody\r\nEND\r\n",
            b"STORED\r\nNOT_FOUND\r\n",
            b"STAT pid 1\r\nEND\r\n",
            b"SERVER_ERROR out of memory\r\n",
        ),
    ),
    "memcached answers": Parser(
        both_ways(answers),
        (memtext.BadReply,),
        (b"VALUE k 1 4\r\nbody\r\nEND\r\n", b"END\r\nEND\r\n", b"SERVER_ERROR x\r\n"),
    ),
    "node commands": Parser(
        both_ways(commands),
        (memtext_commands.BadCommand,),
        (
            b"get k\r\nset k 1 0 4\r\nbody\r\n",
            b"gets a b c\r\ndelete k noreply\r\n",
            b"incr k 5\r\ntouch k 9\r\nflush_all\r\nstats items\r\n",
            b"cas k 0 0 1 5 noreply\r\nx\r\nversion\r\nquit\r\n",
            memtext.browse_command(b"a/", b"a/b", 10),
            memtext.newest_command(b"k", 0x53460001, RECORDS[0]),
        ),
    ),
    "metadump": Parser(
        both_ways(dump),
        (memtext.BadReply,),
        (
            b"key=a%20b exp=-1 la=1 cas=1 fetch=no cls=1 size=60\nEND\r\n",
            b"BUSY x\r\n",
            b"ERROR\r\n",
        ),
    ),
    "thing of a folder": Parser(
        memtext_listing.thing,
        (memtext.BadReply,),
        (memtext_listing.thing_block(memtext_listing.Thing(b"a", RECORDS[0][:56])),),
    ),
    "bucket of Beansdb": Parser(
        memtext_listing.bucket, (memtext.BadReply,), (b"0/ 1 2\na/ 3 4\n", b"key 1 2\nother 3 4\n")
    ),
    "record": Parser(lambda data: record.decode(data, "s", b"k"), (errors.Corrupt,), RECORDS),
    "head": Parser(lambda data: record.decode_head(data, "s", b"k"), (errors.Corrupt,), RECORDS),
    "head alone": Parser(
        lambda data: record.decode_lone_head(data, "s", b"k"),
        (errors.Corrupt,),
        (bytes(record.encode_head(HEAD)),),
    ),
    "item": Parser(
        decode_item,
        (items.BadItem,),
        (bytes(4) + b"body", *(items.RECORD_FLAGS.to_bytes(4, "big") + each for each in RECORDS)),
    ),
    "manifest": Parser(
        metadata(
            lambda head: chunks.file_head(MANIFEST.head._replace(metadata=head.metadata), b"k")
        ),
        (errors.Corrupt,),
        (json.dumps(dict(MANIFEST.head.metadata)).encode(),),
    ),
    "chunk": Parser(
        lambda data: (
            chunks.read_chunk_key(chunks.prefix_of("plain"), data),
            chunks.home_of(data),
            chunks.object_of(data),
        ),
        (),
        (chunks.chunk_key(chunks.prefix_of("plain"), b"k", LAYOUT.upload, 3),),
    ),
    "entry of an object": Parser(
        metadata(lambda head: object_entries.read_entry(ID.decode(), head)),
        (errors.Corrupt,),
        (json.dumps(dict(ENTRY)).encode(),),
    ),
    "labels of objstore": Parser(
        metadata(lambda head: object_entries.ObjstoreLabels().read(head.metadata)),
        (),
        (b'{"id": "x", "consistency": "1", "name": "a"}',),
    ),
    "fields of an object": Parser(
        pairs(
            lambda fields: (object_fields.object_id(fields), object_fields.traits(fields, "a/b"))
        ),
        (errors.BadArgument, errors.TooManyNames),
        (b'X-Meta-ID: 01ARZ3NDEKTSV4RRFFQ69G5FAV\nX-Meta-Name: a\nX-Meta-User: {"a": "b"}',),
    ),
    "handshake of a client": Parser(
        both_ways(server_lines), (handshake.BadHandshake,), (shaken()[0],)
    ),
    "handshake of a server": Parser(client_lines, (handshake.BadHandshake,), (shaken()[1],)),
    "HTTP answer": Parser(
        both_ways(http_answer),
        (http_text.BadResponse,),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nETag: x\r\n\r\nbody",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + CHUNKED,
            b"HTTP/1.0 404 Not Found\r\nContent-Length: 0\r\n\r\n",
        ),
    ),
    "date of an HTTP answer": Parser(
        http_text.second_of, (http_text.BadResponse,), (b"Tue, 14 Nov 2023 22:13:20 GMT",)
    ),
    "host": Parser(text(http_text.is_host), (), (b"a.example:80", b"[::1]:1")),
    "form": Parser(both_ways(form_file), (errors.BadBody, errors.UnsupportedCoding), (FORM,)),
    "boundary": Parser(
        text(form.boundary), (errors.BadBody,), (b"multipart/form-data; boundary=x1y2",)
    ),
    "conditions": Parser(
        pairs(
            lambda fields: (
                conditional.malformed(fields),
                conditional.unmet(fields, VALIDATORS, True),
                conditional.unmet(fields, None, False),
            )
        ),
        (),
        (
            b'If-Match: "abc", W/"d"\nIf-None-Match: *',
            b"If-Modified-Since: Tue, 14 Nov 2023 22:13:20 GMT",
            b"If-Unmodified-Since: Tuesday, 14-Nov-23 22:13:20 GMT",
        ),
    ),
    "date": Parser(text(conditional.parse_date), (), (b"Tue Nov 14 22:13:20 2023",)),
    "range": Parser(
        text(lambda asked: conditional.parse_range(asked, 1000)),
        (),
        (b"bytes=0-1", b"bytes=-5,7-,20-30", b"bytes=999-"),
    ),
    "list of blobs": Parser(both_ways(blob_list), (ValueError,), (b'["abc", "def"]\n', b"[]")),
    "id of a blob": Parser(
        text(lambda found: (blob_ids.id_at(found), blob_ids.check_id(found))),
        (errors.NotFound,),
        (b"a" * 40, blob_ids.path_of("ab" * 20).encode()),
    ),
    "fields of a blob": Parser(
        lambda data: blob_fields.carried_in({b"x-sfss-head-1": data}, {}, "s", b"k"),
        (errors.Corrupt,),
        (blob_fields.fields_of(HEAD).split(": ", 1)[-1].strip().encode(),),
    ),
    "ULID": Parser(text(ulid.read_ulid), (), (ID, ID.lower())),
    "settings": Parser(
        text(lambda toml: config_reading.load(toml)),
        (errors.SettingError,),
        (TOML, b"[server]\nport = 1\n", b""),
    ),
    "settings of the environment": Parser(
        pairs(lambda environ: config_reading.load(environ=environ)),
        (errors.SettingError,),
        (b"SFSS_SERVER_PORT: 1\nSFSS_MEMCACHED_SERVERS: a:1,b:2",),
    ),
    "listing of WebDAV": Parser(
        lambda data: webdav_listing.things_in_xml(data, b"/f/"), (ValueError,), (XML,)
    ),
    "listing of nginx": Parser(
        lambda data: webdav_listing.things_in_json(data, b""),
        (ValueError, RecursionError),
        (AUTOINDEX,),
    ),
    "signed URL": Parser(text(signed), (signing.BadSignature,), (f"99 k {QUERY}".encode(),)),
    "token": Parser(text(grants.read_token), (ValueError,), (TOKEN.encode(),)),
    "Authorization": Parser(
        text(gate.secret_in), (), (b"Bearer secret", b"Basic dXNlcjpzZWNyZXQ=")
    ),
    "X-Forwarded-For": Parser(
        text(lambda said: asking.forwarded_for(said, "10.0.0.1")), (), (b"10.0.0.1, [::1]:5",)
    ),
    "request id": Parser(text(asking.request_id_of), (), (b"4f.A",)),
    "roster": Parser(
        text(roster.read_roster), (ValueError,), (b"10.0.0.1 a:1 # x\nb\n\n10.0.0.2 [::1]:5\n",)
    ),
    "question of a member": Parser(
        lambda data: member_talk.read_question(data, "t"),
        (member_talk.BadWord,),
        (member_talk.question("t", member_talk.ASKS[0], MEMBER, STATE),),
    ),
    "reply of a member": Parser(
        lambda data: member_talk.read_reply(data, "t"),
        (member_talk.BadWord,),
        (member_talk.reply("t", MEMBER, STATE),),
    ),
    "state of a member": Parser(
        words(member_state.read_state),
        (ValueError,),
        (json.dumps(member_state.state_as_words(STATE)).encode(),),
    ),
    "path": Parser(text(keys.check_path), (errors.BadPath,), ("a/ä b.txt".encode(),)),
    "address": Parser(
        text(lambda target: locations.locate(target, [("/old/", "/new/")])),
        (errors.BadPath, errors.NotFound),
        (b"/a/b%20c?x#y", b"http://a/old/b"),
    ),
    "request of the short way": Parser(fast.verdict_of, (), (REQUEST_FIELDS,)),
    "line of the short way": Parser(
        lambda data: [each.line.match(data) for each in (fast.NATIVE, fast.paths_shape([], ()))],
        (),
        (b"GET /file?path=a%20b HTTP/1.1\r\n", b"GET /a/b%C3%A4 HTTP/1.1\r\n"),
    ),
    "media type": Parser(text(names_kept.media_type), (), (b"text/plain; charset=utf-8",)),
    "time to live": Parser(
        text(lambda said: names_kept.ttl_s(said, None)), (errors.BadArgument,), (b"60",)
    ),
    "URL of a log": Parser(
        text(lambda url: (access.redacted(url), access.quoted(url))),
        (),
        (b"/file?path=a&signature=x&key=%6b", b"http://a/?a=b?signature=x"),
    ),
    "name of an upload": Parser(
        text(lambda name: upload_plan.stored_path(name, ["a"])),
        (errors.BadPath,),
        (b"a/b.txt", b"http://a/b%20c"),
    ),
    "loopback": Parser(text(listening.is_loopback), (), (b"127.0.0.1", b"::ffff:127.0.0.1")),
}


BROKE_IT: Final = (
    ("time to live", b"6\x1d"),
    ("URL of a log", b"/?" + b"a=?" * 2700),
    ("URL of a log", b"/?" + b"a" * 8000),  # not in its square
)
"""Inputs that a parser did not survive once."""


def checks(name: str, found: object) -> None:
    """Assert what has to be true of whatever a parser has found."""
    if name in ("X-Forwarded-For",):
        assert isinstance(found, bytes)
        assert found.count(b"\n") == 1, found
    if name == "record" and isinstance(found, Record) and found.head.kind is Kind.FILE:
        assert digest_of(found.body) == found.head.digest  # type: ignore[arg-type]
