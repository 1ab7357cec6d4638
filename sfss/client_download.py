"""A file as it comes from a gateway: goes on where a connection was cut off, and is held against
its digest at the end.
"""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from random import random
from typing import Any

from xxhash import xxh3_128

from sfss.client_asking import Answer, Asker
from sfss.client_errors import Changed, ConditionFailed, Damaged, Unreachable
from sfss.client_text import File, file_of, range_of
from sfss.http_connection import NoAnswer, Request, Stream
from sfss.trying_again import growing_pause_s


@dataclass(frozen=True, slots=True)
class Wanted:
    """Bytes ``start`` up to ``stop`` of the file ``path``, under the conditions in ``fields``."""

    path: str
    start: int = 0
    stop: int | None = None
    fields: Mapping[str, str] | None = None

    def request(self, asker: Asker, start: int, fields: Mapping[str, str]) -> Request:
        """Return the request for what is left from ``start`` on."""
        more = dict(fields)
        if start or self.stop is not None:
            more["Range"] = f"bytes={start}-{'' if self.stop is None else self.stop - 1}"
        return Request(asker.write.file_head("GET", self.path, more))


class Download:
    """A file that is being read: its blocks, once. ``file`` says what it is.

    Raises, from ``blocks`` and ``read``: ``Unreachable`` where it is cut off and cannot be had
    after all, ``Changed`` where it was replaced meanwhile, ``Damaged`` where the bytes are not
    those that the server has kept.
    """

    def __init__(self, asker: Asker, wanted: Wanted, answer: Answer) -> None:
        self._asker, self._wanted = asker, wanted
        self.file: File = file_of(wanted.path, answer.head)
        self._answer = answer
        self._position, self._stop = wanted.start, self.file.size
        if wanted.stop is not None:
            self._stop = min(wanted.stop, self.file.size)
        self._digest = None if wanted.start or self._stop < self.file.size else xxh3_128()
        _check_start(wanted.path, answer, wanted.start)

    def continues(self, digest: Any) -> None:
        """Take note that the digest of all that comes before is so far ``digest``."""
        self._digest = digest

    async def read(self) -> bytes:
        """Return all of it."""
        body = self._answer.body
        if isinstance(body, bytes):
            self._take(body)
            self._check_end()
            return body
        return b"".join([block async for block in self.blocks()])

    async def blocks(self) -> AsyncGenerator[bytes, None]:
        """Yield it in blocks. The last of them comes only when all was found to be right."""
        tries, held = 0, b""
        answer = self._answer
        try:
            while True:
                try:
                    async with aclosing(_pieces(answer)) as pieces:
                        async for piece in pieces:
                            tries = 0
                            self._take(piece)
                            if held:
                                yield held
                            held = piece
                    break
                except NoAnswer as failure:
                    tries += 1
                    if tries >= self._asker.tries or not self.file.etag.startswith('"'):
                        raise Unreachable(f"{self.file.path}: {failure}") from None
                    await asyncio.sleep(growing_pause_s(tries, random()))
                answer.close()
                answer = await self._rest()
            self._check_end()
            if held:
                yield held
        finally:
            if answer is not self._answer:
                answer.close()

    def _take(self, piece: bytes) -> None:
        self._position += len(piece)
        if self._position > self._stop:
            raise Damaged(f"{self.file.path}: more bytes came than were asked for")
        if self._digest is not None:
            self._digest.update(piece)

    def _check_end(self) -> None:
        name, left = self.file.path, self._stop - self._position
        if left:
            raise Damaged(f"{name}: {left} of {self._stop - self._wanted.start} bytes are missing")
        if self._digest is None or self.file.digest is None:
            return
        found = self._digest.hexdigest()
        if found != self.file.digest:
            raise Damaged(f"{name}: its digest is {self.file.digest}, that of what came {found}")

    async def _rest(self) -> Answer:
        """Ask for what is still missing of this very file. No more room is needed for that."""
        wanted = Wanted(self.file.path, self._position, self._stop)
        fields = {"If-Match": self.file.etag}
        try:
            answer = await self._asker.answered(
                wanted.request(self._asker, self._position, fields), self.file.path
            )
        except ConditionFailed as error:
            raise Changed(f"{self.file.path}: it was replaced while it was read") from error
        try:
            _check_start(self.file.path, answer, self._position)
        except BaseException:
            answer.close()
            raise
        return answer


async def _pieces(answer: Answer) -> AsyncGenerator[bytes, None]:
    if isinstance(answer.body, Stream):
        async for piece in answer.body.pieces():
            yield piece
    elif answer.body:
        yield answer.body


def _check_start(path: str, answer: Answer, start: int) -> None:
    """Raise ``Damaged`` where ``answer`` does not begin at ``start``."""
    found = range_of(answer.head)[0] if answer.head.status == 206 else 0
    if found != start:
        raise Damaged(f"{path}: asked for what comes from byte {start} on, it begins at {found}")
