"""The handshake of a node: both sides whole, byte by byte and with bytes behind, and who lies."""

import hashlib
import hmac
from collections.abc import Callable, Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sfss.handshake import (
    LINE_LIMIT,
    NONCE_SIZE,
    REFUSAL,
    BadHandshake,
    ClientHandshake,
    ServerHandshake,
    new_nonce,
)

SECRET = "the secret of the tests"
CLIENT_NONCE = bytes(range(NONCE_SIZE))
SERVER_NONCE = bytes(range(100, 100 + NONCE_SIZE))


def whole(text: bytes) -> list[bytes]:
    return [text]


def byte_by_byte(text: bytes) -> list[bytes]:
    return [text[index : index + 1] for index in range(len(text))]


def client_of(secret: str = SECRET, nonce: bytes = CLIENT_NONCE) -> ClientHandshake:
    return ClientHandshake(secret, nonce)


def server_of(secret: str = SECRET, nonce: bytes = SERVER_NONCE) -> ServerHandshake:
    return ServerHandshake(secret, nonce)


def feed(side: ClientHandshake | ServerHandshake, pieces: Iterable[bytes]) -> bytes:
    return b"".join([side.feed(piece) for piece in pieces])


def proof(side: bytes, client_nonce: bytes, server_nonce: bytes) -> bytes:
    """Return what proves it, worked out apart from the module."""
    text = b"sfss node authentication 1\0" + side + b"\0" + client_nonce + server_nonce
    return hmac.new(SECRET.encode(), text, hashlib.sha256).hexdigest().encode()


def challenge() -> bytes:
    """Return the right answer to ``CLIENT_NONCE``."""
    return b"AUTH %b %b\r\n" % (
        SERVER_NONCE.hex().encode(),
        proof(b"server", CLIENT_NONCE, SERVER_NONCE),
    )


@pytest.mark.parametrize("cut", [whole, byte_by_byte])
def test_both_sides_that_know_the_secret_believe_each_other(
    cut: Callable[[bytes], list[bytes]],
) -> None:
    client, server = client_of(), server_of()
    answer = feed(server, cut(client.request))
    assert answer == challenge()
    last = feed(client, cut(answer))
    assert last == b"auth %b\r\n" % proof(b"client", CLIENT_NONCE, SERVER_NONCE)
    assert not client.finished
    assert not server.finished
    assert feed(client, cut(feed(server, cut(last)))) == b""
    assert client.finished
    assert server.finished
    assert server.rest == b""


def test_what_comes_behind_the_handshake_is_left_for_others() -> None:
    client, server = client_of(), server_of()
    last = client.feed(server.feed(client.request))
    assert server.feed(last + b"get k\r\nget") == b"OK\r\n"
    assert server.finished
    assert server.rest == b"get k\r\nget"


def test_the_secret_is_not_sent_and_nonces_are_new() -> None:
    client, server = client_of(nonce=new_nonce()), server_of(nonce=new_nonce())
    answer = server.feed(client.request)
    said = client.request + answer + client.feed(answer)
    for form in (SECRET.encode(), SECRET.encode().hex().encode()):
        assert form not in said
    assert len({new_nonce() for _ in range(1000)}) == 1000
    assert len(new_nonce()) == NONCE_SIZE


def test_a_server_with_another_secret_is_told_nothing() -> None:
    client, server = client_of(), server_of("another secret of the tests")
    with pytest.raises(BadHandshake, match="it has another secret"):
        client.feed(server.feed(client.request))


def test_a_client_with_another_secret_is_refused() -> None:
    server = server_of()
    server.feed(client_of().request)
    with pytest.raises(BadHandshake, match="does not know the secret"):
        server.feed(b"auth %b\r\n" % (b"0" * 64))
    assert not server.finished


def test_the_proof_of_the_server_is_none_of_a_client() -> None:
    server = server_of()
    _, _, own = server.feed(client_of().request).split()
    with pytest.raises(BadHandshake):
        server.feed(b"auth %b\r\n" % own)
    assert not server.finished


@pytest.mark.parametrize("nonce", [SERVER_NONCE, CLIENT_NONCE])
def test_a_proof_can_be_used_for_no_other_connection(nonce: bytes) -> None:
    former = server_of()
    overheard = client_of().feed(former.feed(client_of().request))
    later = server_of(nonce=new_nonce())
    later.feed(f"auth {nonce.hex()}\r\n".encode())
    with pytest.raises(BadHandshake):
        later.feed(overheard)
    assert not later.finished


def test_the_answer_of_a_server_can_be_used_for_no_other_connection() -> None:
    overheard = server_of().feed(client_of().request)
    with pytest.raises(BadHandshake, match="another secret"):
        client_of(nonce=new_nonce()).feed(overheard)


def test_a_client_that_is_asked_by_its_own_nonce_proves_nothing() -> None:
    client = client_of()
    echo = b"AUTH %b %b\r\n" % (client.request.split()[1], b"0" * 64)
    with pytest.raises(BadHandshake, match="another secret"):
        client.feed(echo)


GOOD_NONCE = CLIENT_NONCE.hex().encode()


@pytest.mark.parametrize("cut", [whole, byte_by_byte])
@pytest.mark.parametrize(
    "line",
    [
        b"version\r\n",
        b"\r\n",
        b"auth\r\n",
        b"auth \r\n",
        b"auth %b\n" % GOOD_NONCE,
        b"auth  %b\r\n" % GOOD_NONCE,
        b"auth %b \r\n" % GOOD_NONCE,
        b"auth %b\r\n" % GOOD_NONCE.upper(),
        b"auth %b\r\n" % GOOD_NONCE[:-2],
        b"auth %b00\r\n" % GOOD_NONCE,
        b"AUTH %b\r\n" % GOOD_NONCE,
        b"auth %b\r\n" % (b"\xff" * 64),
        b"\x80\x00\r\n",
        b"GET / HTTP/1.1\r\n",
        b"x" * LINE_LIMIT,
        b"auth " + b"0" * LINE_LIMIT,
    ],
)
def test_whatever_else_is_said_to_a_server_is_refused(
    cut: Callable[[bytes], list[bytes]], line: bytes
) -> None:
    for server in (server_of(), server_of()):
        with pytest.raises(BadHandshake):
            feed(server, cut(line))
        assert not server.finished
    begun = server_of()
    begun.feed(client_of().request)
    with pytest.raises(BadHandshake):
        feed(begun, cut(line))


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"ERROR\r\n", "it knows no secrets"),
        (b"ERROR Too many open connections\r\n", "it answered ERROR Too many open connections"),
        (REFUSAL, "it asks for a handshake, and refuses this one"),
        (b"AUTH\r\n", "it answered AUTH"),
        (b"OK\r\n", "it answered OK"),
        (b"\xff\r\n", r"it answered \\xff"),
        (b"x" * LINE_LIMIT, "too long"),
        (challenge() + b"O", "it answered AUTH"),
        (challenge()[:-2] + b"\n", "it answered AUTH"),
    ],
)
def test_whatever_else_a_server_says_is_told(line: bytes, reason: str) -> None:
    with pytest.raises(BadHandshake, match=reason):
        client_of().feed(line)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (REFUSAL, "does not believe"),
        (b"OK\r\nEND\r\n", "it answered OK"),
        (b"OK\n", "it answered OK"),
        (challenge(), "it answered AUTH"),
    ],
)
def test_whatever_else_a_server_says_in_the_end(line: bytes, reason: str) -> None:
    client = client_of()
    client.feed(challenge())
    with pytest.raises(BadHandshake, match=reason):
        client.feed(line)
    assert not client.finished


@given(st.lists(st.binary(max_size=40), max_size=30))
def test_no_bytes_finish_a_handshake_or_are_kept_beyond_a_line(pieces: list[bytes]) -> None:
    for side in (client_of(), server_of()):
        try:
            for piece in pieces:
                side.feed(piece)
                assert len(side._lines.rest) < LINE_LIMIT
        except BadHandshake:
            pass
        assert not side.finished
