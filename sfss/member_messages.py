"""Messages to other members of a cluster: the command "members" of their nodes.

One connection for each question: it is asked seldom, and nothing has to be kept alive. Who is asked
has first proven that it knows the secret; where there is none, it has said that it takes messages:
any other server would run what stands in a message as commands.
"""

import asyncio
import re
from typing import Final

from sfss.checks import read_address
from sfss.errors import Unreachable
from sfss.memtext import LINE_LIMIT, STATS, AnswerParser, BadReply, stats_command
from sfss.memtext_extensions import MEMBERS, MESSAGE_LIMIT
from sfss.stores.memcached_opening import check_refusal, open_connection

_READ_SIZE: Final = 64 * 1024
_ANSWER: Final = re.compile(rb"MEMBERS (\d{1,7})\r\n")
_NO_MESSAGES: Final = "it takes no messages of members"


async def ask(address: str, secret: str, payload: bytes, timeout_s: float) -> bytes:
    """Return what the member at ``address`` ("host:port") answers to ``payload``, both of up to
    ``MESSAGE_LIMIT`` bytes.

    Raises ``Unreachable``: it says with ``applied`` whether the question certainly has not come
    there (False); ValueError for a payload that is too large.
    """
    if len(payload) > MESSAGE_LIMIT:
        raise ValueError(f"a message of {len(payload)} bytes; at most {MESSAGE_LIMIT} are sent")
    question = _Question()
    clock = asyncio.timeout(timeout_s)
    try:
        async with clock:
            await question.open(address, secret)
            return await question.ask(payload)
    # UnicodeError: a host name that no name server can be asked for. EOFError: no whole answer.
    except (OSError, UnicodeError, EOFError, asyncio.LimitOverrunError, BadReply) as error:
        reason = str(error) or type(error).__name__
        if isinstance(error, EOFError):
            reason = "it closed the connection without a whole answer"
        if clock.expired():
            reason = f"no answer within {timeout_s:g} s"
        raise Unreachable(address, reason, question.applied) from error
    finally:
        question.close()


class _Question:
    """One connection; ``applied`` as in ``Unreachable``."""

    def __init__(self) -> None:
        self.applied: bool | None = False
        self._reader = asyncio.StreamReader(limit=LINE_LIMIT)
        self._transport: asyncio.Transport | None = None

    async def open(self, address: str, secret: str) -> None:
        """Connect, and see to it that a message is safe to be sent."""
        found = read_address(address)
        if found is None:
            raise BadReply('it has no address: "host:port" is expected')
        protocol = asyncio.StreamReaderProtocol(self._reader)
        self._transport = await open_connection(protocol, *found, secret)
        if not secret:
            await self._check_settings(self._transport)

    async def _check_settings(self, transport: asyncio.Transport) -> None:
        transport.write(stats_command("settings"))
        parser = AnswerParser(LINE_LIMIT)
        while (answer := parser.next_answer(STATS)) is None:
            chunk = await self._reader.read(_READ_SIZE)
            if not chunk:
                raise EOFError
            parser.feed(chunk)
        check_refusal(answer.status)
        if answer.stats.get(MEMBERS) != "yes" or not parser.empty():
            raise BadReply(_NO_MESSAGES)

    async def ask(self, payload: bytes) -> bytes:
        """Return the answer to ``payload``."""
        assert self._transport is not None
        self.applied = None
        self._transport.write(b"members %d\r\n%b\r\n" % (len(payload), payload))
        line = await self._reader.readuntil(b"\r\n")
        match = _ANSWER.fullmatch(line)
        if match is None or int(match[1]) > MESSAGE_LIMIT:
            raise self._refused(line)
        answer = await self._reader.readexactly(int(match[1]) + 2)
        if not answer.endswith(b"\r\n"):
            raise BadReply("its answer does not end where it should")
        return answer[:-2]

    def _refused(self, line: bytes) -> BadReply:
        if line == b"ERROR\r\n":
            self.applied = False
            return BadReply(_NO_MESSAGES)
        return BadReply(f"it answered {line[:200].decode('ascii', 'backslashreplace').strip()}")

    def close(self) -> None:
        """Close at once."""
        if self._transport is not None:
            self._transport.abort()
