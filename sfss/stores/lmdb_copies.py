"""An embedded store as one of several with copies: it keeps the newest of a key.

It also takes what came from a store of plain files, where another program had written it: a file
whose digest is only a token of size and time (``plain_heads``), which is served as it is.
"""

from pathlib import Path

from sfss.checks import folder_of
from sfss.record import Buffer, Head, Record, decode_head
from sfss.stores.base import HasNewer, unless_newer
from sfss.stores.evicting_store import EvictingStore
from sfss.stores.plain_heads import is_raw


class LmdbCopies(EvictingStore):
    """The store at ``address``, "lmdb:FOLDER"; see ``EvictingStore`` and ``NewestStore``.
    ``known_as`` is the address under which others reach it, of a node over the same folder.

    Several processes may have it open, each of them once.
    """

    def __init__(self, address: str, timeout_s: float, known_as: str = "") -> None:
        folder = Path(folder_of(address))
        super().__init__(folder, timeout_s=timeout_s, address=known_as or address)

    async def set_newest(self, key: bytes, record: Record) -> Head | None:
        """Keep ``record`` unless there is a newer one; see ``NewestStore.set_newest``. Nobody comes
        in between. A record that is newer and has only its body damaged is returned.
        """
        try:
            await self.set_copy(key, record, unless_newer(record.head))
        except HasNewer as newer:
            return newer.head
        return None

    def _decoded(self, value: Buffer, key: bytes) -> Record:
        head = decode_head(value, self.address, key)
        if is_raw(head):
            return Record(head, memoryview(value)[len(value) - head.size :])
        return super()._decoded(value, key)
