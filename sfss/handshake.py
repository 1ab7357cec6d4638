"""Proof that both ends of a connection know the same secret, before anything else is said. Pure.

::

    client   auth NONCE           32 random bytes, as all that follows in hexadecimal digits
    server   AUTH NONCE PROOF     random bytes of its own; the proof that it knows the secret
    client   auth PROOF           the proof that it does, too
    server   OK                   or CLIENT_ERROR unauthenticated, and the end

Mutual authentication in three passes as in ISO/IEC 9798-4, with HMAC-SHA256 (RFC 2104) under the
secret. A proof is over the name of the protocol, the side that gives it and both nonces: it proves
nothing on another connection, nor for the other side. The secret is never sent. But whoever
connects gets a proof of the server's, on which he can try guesses in peace: so a secret has to be
long and random.

No line is waited for that has more than ``LINE_LIMIT`` bytes.
"""

import hmac
import re
import secrets
from typing import Final

NONCE_SIZE: Final = 32
"""Bytes of a nonce."""

LINE_LIMIT: Final = 256
"""Bytes that a line may have, its end included; the longest that is right has 135."""

UNAUTHENTICATED: Final = "unauthenticated"
REFUSAL: Final = f"CLIENT_ERROR {UNAUTHENTICATED}\r\n".encode()
"""The answer to whatever comes before a right proof, and to a wrong one."""

_OK: Final = b"OK\r\n"
_UNKNOWN: Final = b"ERROR\r\n"
_PROTOCOL: Final = b"sfss node authentication 1"
_CLIENT: Final = b"client"
_SERVER: Final = b"server"
_NONCE: Final = rb"([0-9a-f]{%d})" % (2 * NONCE_SIZE)
_PROOF: Final = rb"([0-9a-f]{64})"
_CLIENT_NONCE: Final = re.compile(rb"auth %b\r\n" % _NONCE)
_CLIENT_PROOF: Final = re.compile(rb"auth %b\r\n" % _PROOF)
_SERVER_PROOF: Final = re.compile(rb"AUTH %b %b\r\n" % (_NONCE, _PROOF))


class BadHandshake(Exception):
    """Raised when the other side has not proven that it knows the secret, or does not believe that
    this one does. The text says "it ...", for a person. The connection has to be closed.
    """


def new_nonce() -> bytes:
    """Return random bytes that nobody can foresee."""
    return secrets.token_bytes(NONCE_SIZE)


def _proof(secret: str, side: bytes, client_nonce: bytes, server_nonce: bytes) -> bytes:
    # All parts but the name of the side have one length, and no name is the beginning of the other.
    text = b"\0".join((_PROTOCOL, side, client_nonce + server_nonce))
    return hmac.digest(secret.encode(), text, "sha256")


class _Lines:
    """Cuts a stream of bytes into lines that are bounded."""

    def __init__(self) -> None:
        self.rest = b""

    def feed(self, data: bytes) -> None:
        self.rest += data

    def next_line(self) -> bytes | None:
        """Return the next line with its end, or None while more bytes are needed."""
        end = self.rest.find(b"\n", 0, LINE_LIMIT) + 1
        if end:
            line, self.rest = self.rest[:end], self.rest[end:]
            return line
        if len(self.rest) >= LINE_LIMIT:
            raise BadHandshake("it sent a line that is too long")
        return None


class ServerHandshake:
    """The server's side of one connection; ``nonce`` has to be new for each."""

    def __init__(self, secret: str, nonce: bytes) -> None:
        self._secret, self._nonce = secret, nonce
        self._expected: bytes | None = None
        self._lines = _Lines()
        self.finished = False
        """Whether the client has proven that it knows the secret."""

    def feed(self, data: bytes) -> bytes:
        """Take bytes of the client; return what is to be sent to it now, perhaps nothing.

        Raises ``BadHandshake``: then ``REFUSAL`` is to be sent, and the connection to be closed.
        """
        self._lines.feed(data)
        answers = b""
        while not self.finished and (line := self._lines.next_line()) is not None:
            answers += self._answer(line)
        return answers

    def _answer(self, line: bytes) -> bytes:
        if self._expected is None:
            return self._prove(line)
        match = _CLIENT_PROOF.fullmatch(line)
        if match is None or not hmac.compare_digest(_bytes(match[1]), self._expected):
            raise BadHandshake("it does not know the secret")
        self.finished = True
        return _OK

    def _prove(self, line: bytes) -> bytes:
        match = _CLIENT_NONCE.fullmatch(line)
        if match is None:
            raise BadHandshake("it did not begin with a handshake")
        nonce = _bytes(match[1])
        self._expected = _proof(self._secret, _CLIENT, nonce, self._nonce)
        own = _proof(self._secret, _SERVER, nonce, self._nonce)
        return f"AUTH {self._nonce.hex()} {own.hex()}\r\n".encode()

    @property
    def rest(self) -> bytes:
        """What came behind the handshake, once that has finished."""
        return self._lines.rest


class ClientHandshake:
    """The client's side of one connection; ``nonce`` has to be new for each.

    ``request`` is to be sent first.
    """

    def __init__(self, secret: str, nonce: bytes) -> None:
        self._secret, self._nonce = secret, nonce
        self._has_proven = False
        self._lines = _Lines()
        self.request = f"auth {nonce.hex()}\r\n".encode()
        self.finished = False
        """Whether both sides believe each other."""

    def feed(self, data: bytes) -> bytes:
        """Take bytes of the server; return what is to be sent to it now, perhaps nothing.

        Raises ``BadHandshake``, also when there is more than was asked for.
        """
        self._lines.feed(data)
        line = self._lines.next_line()
        if line is None:
            return b""
        if self._lines.rest:
            raise BadHandshake(f"it answered {_shown(line + self._lines.rest)}")
        return self._answer(line)

    def _answer(self, line: bytes) -> bytes:
        if self._has_proven:
            if line != _OK:
                raise BadHandshake(_why(line, "it does not believe that the secret is known"))
            self.finished = True
            return b""
        match = _SERVER_PROOF.fullmatch(line)
        if match is None:
            raise BadHandshake(_why(line, "it asks for a handshake, and refuses this one"))
        nonce = _bytes(match[1])
        expected = _proof(self._secret, _SERVER, self._nonce, nonce)
        if not hmac.compare_digest(_bytes(match[2]), expected):
            raise BadHandshake("it has another secret")
        self._has_proven = True
        return f"auth {_proof(self._secret, _CLIENT, self._nonce, nonce).hex()}\r\n".encode()


def _bytes(digits: bytes) -> bytes:
    return bytes.fromhex(digits.decode("ascii"))


def _why(line: bytes, refused: str) -> str:
    if line == _UNKNOWN:
        return "it knows no secrets: it is no sfss node, or one without --secret-file"
    return refused if line == REFUSAL else f"it answered {_shown(line)}"


def _shown(line: bytes) -> str:
    return line[:80].decode("ascii", "backslashreplace").strip()
