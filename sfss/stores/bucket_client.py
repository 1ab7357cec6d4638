"""Objects in one bucket, asked for through obstore; the one module that knows it.

obstore works in threads of its own, so nothing here waits in the event loop. What it raises is
translated here. "No such object" is ``None`` only where the server has named the bucket as there: a
HEAD that is answered with 404 does not say that, and whoever needs to know asks with GET.

Every request has ``timeout_s`` until the next piece of its answer. obstore's own time-out is for a
whole answer, however long the body, and stays out of the way; what is given up here is broken off
there. One that failed is tried once more by obstore, if that can do no harm.
"""

import asyncio
import re
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Final, NamedTuple, cast

import obstore
from obstore.exceptions import AlreadyExistsError, PreconditionError
from obstore.store import S3Store

from sfss.checks import bucket_of
from sfss.config import MIB, BucketSettings
from sfss.errors import (
    CannotList,
    PathTaken,
    SettingError,
    SfssError,
    StoreFull,
    TooLarge,
    Unreachable,
)
from sfss.record import PIECE_SIZE, Body, pieces_of
from sfss.spool import Spool
from sfss.stores.bucket_credentials import SharedCredentials

PART_SIZE: Final = 8 * MIB
"""Bytes of a part of what is sent in several."""

PAGE_SIZE: Final = 1000
"""Keys that a bucket lists at a time."""

_PARTS_AT_ONCE: Final = 2
_HELD_LIMIT: Final = MIB
_RETRIES: Final = 1
_REASON_LIMIT: Final = 300
_WHOLE_ANSWER: Final = timedelta(days=1)

_STATUS: Final = re.compile(r"status code: (\d{3}[^:\n]*)")
_CODE: Final = re.compile(r"<Code>([^<]{1,100})</Code>")
_MESSAGE: Final = re.compile(r"<Message>([^<]{1,200})</Message>")
_TAKEN: Final = re.compile(
    r"(?s)(?:path|location) (?P<path>.*?)(?: already exists)?: .*"
    r"<Code>(?P<code>ExistingObjectIsDirectory|ObjectParentIsFile|XMinioParentIsObject)</Code>"
)
"""From servers that keep objects as files: a folder has the name, or a file that of a folder."""

_NO_ANSWER: Final = re.compile(r"HTTP error: ([^\n]{1,100})")


class Object(NamedTuple):
    """What a bucket says of one object: ``attributes`` are its type and the metadata of its user,
    None where it was listed and not asked for.
    """

    key: str
    size: int
    modified_s: int
    etag: str
    attributes: Mapping[str, str] | None = None


class Fetched(NamedTuple):
    """An object with its body, and the digest of that."""

    object: Object
    body: Body
    digest: bytes


class Folder(NamedTuple):
    """What is in one folder: objects, and the folders in it, whose names end with "/"."""

    objects: Sequence[Object]
    folders: Sequence[str]


@dataclass(frozen=True, slots=True)
class Condition:
    """That an object is to be written only where there is none, or the one with this ``etag``."""

    etag: str | None


class Bucket:
    """The objects of the bucket at ``address``, "s3://BUCKET/PREFIX", below ``prefix``.

    Bodies of over 1 MiB are kept in ``spool_folder`` while they are read. All methods raise
    ``Unreachable``. Raises ``SettingError`` for what obstore does not take.
    """

    def __init__(self, address: str, settings: BucketSettings, spool_folder: Path) -> None:
        self.address = address
        self.name, self.prefix = bucket_of(address)
        self._spool_folder, self._timeout_s = spool_folder, settings.timeout_s
        self._slots = asyncio.Semaphore(settings.connections)
        self._store = _open(self.name, settings)
        self._is_closed = False

    async def look(self, key: str) -> Object | None:
        """Return the object under ``key`` without its body; None: there is none, or no bucket."""
        async with self._asking(False):
            try:
                found = await obstore.get_async(self._store, self._place(key), options=_HEAD)
            except FileNotFoundError:
                return None
            return self._object(found.meta, found.attributes)

    async def get(self, key: str) -> Fetched | None:
        """Return the object under ``key``; None: there is none, in a bucket that is there."""
        async with self._asking(False) as timer:
            try:
                found = await obstore.get_async(self._store, self._place(key))
            except FileNotFoundError as error:
                self._check_bucket(error)
                return None
            spool = Spool(self._spool_folder, _HELD_LIMIT)
            async for piece in found.stream(PIECE_SIZE):
                await spool.write(piece)
                self._renew(timer)
            seen = self._object(found.meta, found.attributes)
            if spool.size != seen.size:
                reason = f"of {seen.size} bytes it has sent {spool.size}"
                raise Unreachable(self.address, reason, applied=False)
            return Fetched(seen, *await spool.finish())

    async def put(
        self,
        key: str,
        body: Body,
        attributes: Mapping[str, str],
        condition: Condition | None = None,
    ) -> bool:
        """Keep ``body`` under ``key``; return False where the ``condition`` does not hold.

        A body that is not held in memory goes in parts, and whatever the condition: obstore has
        none for parts. Raises ``TooLarge``; ``PathTaken`` on a server that keeps folders.
        """
        mode: Any = None
        is_held = isinstance(body, bytes | bytearray | memoryview)
        if is_held and condition is not None:
            mode = "create" if condition.etag is None else {"e_tag": condition.etag}
        async with self._asking(None, len(body)) as timer:
            try:
                await obstore.put_async(
                    self._store,
                    self._place(key),
                    body if is_held else self._pieces(body, timer),  # type: ignore[arg-type]
                    attributes=dict(attributes),
                    mode=mode,
                    use_multipart=not is_held,
                    chunk_size=PART_SIZE,
                    max_concurrency=_PARTS_AT_ONCE,
                )
            except (AlreadyExistsError, PreconditionError) as error:
                # Whatever is answered 409 comes here, too.
                if mode is None or _TAKEN.search(str(error)):
                    raise
                return False
        return True

    async def delete(self, key: str) -> None:
        """Remove the object under ``key``, if there is one."""
        async with self._asking(None):
            await obstore.delete_async(self._store, self._place(key))

    async def objects(self, folder: str, after: str) -> AsyncGenerator[Sequence[Object]]:
        """Yield, in byte order, all objects below ``folder`` ("" or ending with "/") whose keys
        are greater than ``after``, in batches of up to ``PAGE_SIZE``. Raises ``CannotList``.
        """
        offset = self._place(after) if after else None
        stream = obstore.list(
            self._store, self._place(folder).rstrip("/"), offset=offset, chunk_size=PAGE_SIZE
        )
        while True:
            async with self._asking(False):
                try:
                    page = await stream.__anext__()
                except StopAsyncIteration:
                    return
            yield [self._object(meta) for meta in page]

    async def folder(self, folder: str) -> Folder:
        """Return all that is in ``folder`` ("" or ending with "/"). Raises ``CannotList``."""
        async with self._asking(False):
            found = await obstore.list_with_delimiter_async(
                self._store, self._place(folder).rstrip("/")
            )
        objects = [self._object(meta) for meta in found["objects"]]
        cut = len(self.prefix)
        return Folder(objects, [f"{name[cut:]}/" for name in found["common_prefixes"]])

    def close(self) -> None:
        """Ask for nothing any more."""
        self._is_closed = True

    def _place(self, key: str) -> str:
        return self.prefix + key

    def _object(self, meta: Any, attributes: Any = None) -> Object:
        if not meta["e_tag"]:
            # Some other server, or a page of a proxy, that says 200.
            raise Unreachable(self.address, "it does not answer as S3 does", applied=False)
        return Object(
            meta["path"][len(self.prefix) :],
            meta["size"],
            int(meta["last_modified"].timestamp()),
            meta["e_tag"],
            attributes,
        )

    async def _pieces(self, body: Body, timer: asyncio.Timeout) -> AsyncIterator[bytes]:
        pieces = pieces_of(body)
        try:
            while (piece := await asyncio.to_thread(next, pieces, None)) is not None:
                self._renew(timer)
                yield bytes(piece)
        except OSError as error:
            reason = f"the body cannot be read any more: {error}"
            raise Unreachable(self.address, reason, applied=False) from error

    def _renew(self, timer: asyncio.Timeout) -> None:
        timer.reschedule(asyncio.get_running_loop().time() + self._timeout_s)

    @asynccontextmanager
    async def _asking(self, applied: bool | None, size: int = 0) -> AsyncIterator[asyncio.Timeout]:
        """Have one request at a time of ours for the block, and translate what it raises.

        ``applied`` as in ``Unreachable``; ``size`` is that of a body that is sent.
        """
        if self._is_closed:
            raise Unreachable(self.address, "it is closed", applied=False)
        timer = asyncio.timeout(self._timeout_s * (1 + size // PART_SIZE))
        try:
            async with timer, self._slots:
                yield timer
        except StoreFull as error:  # what has no room is our own spool folder
            raise Unreachable(self.address, str(error), applied) from error
        except (SfssError, asyncio.CancelledError):
            raise
        except TimeoutError as error:
            reason = f"no answer within {self._timeout_s:g} s"
            raise Unreachable(self.address, reason, applied) from error
        except Exception as error:
            raise self._failure(error, applied, size) from error

    def _failure(self, error: Exception, applied: bool | None, size: int) -> SfssError:
        text = str(error)
        if "EntityTooLarge" in text:
            return TooLarge(size, None, self.address)
        if (taken := _TAKEN.search(text)) is not None:
            return PathTaken(self.address, taken["path"], taken["code"])
        if "invalid path" in text:
            return CannotList(self.address, f"it has an object of an odd name: {_short(text)}")
        if "NoSuchBucket" in text:
            return self._no_bucket()
        return Unreachable(self.address, reason_of(text), applied)

    def _check_bucket(self, error: FileNotFoundError) -> None:
        if "NoSuchBucket" in str(error):
            raise self._no_bucket() from error

    def _no_bucket(self) -> Unreachable:
        return Unreachable(self.address, f"there is no bucket {self.name}", applied=False)


_HEAD: Final[Any] = {"head": True}


def reason_of(text: str) -> str:
    """Return what is wrong, in a few words, of all that obstore says: no more of an answer than its
    status, code and message, for it may quote what was signed.
    """
    status, code = _STATUS.search(text), _CODE.search(text)
    if status is not None:
        message = _MESSAGE.search(text)
        said = [found[1] for found in (code, message) if found is not None]
        return ": ".join([f"it answered {status[1].strip()}", *said])
    no_answer = _NO_ANSWER.search(text)
    return no_answer[1] if no_answer is not None else _short(text)


def _short(text: str) -> str:
    return text.partition("\n")[0][:_REASON_LIMIT]


def _open(name: str, settings: BucketSettings) -> S3Store:
    # What is empty is left to the environment.
    config: dict[str, Any] = {"disable_bulk_delete": True}
    if settings.region:
        config["region"] = settings.region
    if settings.endpoint:
        config["endpoint"] = settings.endpoint
    client: dict[str, Any] = {
        "allow_http": settings.allow_http,
        "connect_timeout": timedelta(seconds=settings.timeout_s),
        "timeout": _WHOLE_ANSWER,
    }
    retry: dict[str, Any] = {
        "max_retries": _RETRIES,
        "retry_timeout": timedelta(seconds=settings.timeout_s),
    }
    try:
        return S3Store(
            name,
            config=cast(Any, config),
            client_options=cast(Any, client),
            retry_config=cast(Any, retry),
            credential_provider=SharedCredentials.from_environment(),
        )
    except Exception as error:
        wanted = "an endpoint is a URL"
        raise SettingError("settings", "bucket.endpoint", _short(str(error)), wanted) from None
