"""The stores that hold copies, asked one at a time; what is remembered of those that fail.

Nothing here raises what a store raises: an answer says why it could not be had, a write why it was
not kept. All work that others must not cut short runs in tasks that ``Background`` knows.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping
from functools import partial
from math import inf
from typing import Any, Final, TypeAlias

from sfss.agreement import Answer, CopiesSettings, Written, rank
from sfss.complaints import Complaints
from sfss.errors import CannotList, Corrupt, NoStoreReachable, SfssError, StoreError, Unreachable
from sfss.metrics import Counts
from sfss.record import Head, Record
from sfss.stopwatch import Stopwatch
from sfss.stores.base import (
    BrowsableStore,
    Child,
    ForgetfulStore,
    Guard,
    HasNewer,
    NewestStore,
    ViewableStore,
    failures_of,
    least_room,
    unless_newer,
)
from sfss.turns import Background, Turns

_log = logging.getLogger(__name__)

Moments: TypeAlias = Mapping[str, int]
"""By address, of stores that forget: ``ForgetfulStore.moment``."""

NO_MOMENTS: Final[Moments] = {}


class _Another(Exception):
    """Raised by a guard when a store has something else than what was to be removed."""


class Holders:
    """``stores`` by address, as they are at each moment.

    A store that did not answer rests for ``cooling_s``: it is not written to, and read last. Then
    one request tries it again. One of which ``is_live`` says no is not asked at all, nor are those
    that are ``gone`` for good, and need not be among ``stores``. The one that ``may_lack`` files
    forgets what others have. ``counts`` are the events of ``metrics``.
    """

    def __init__(
        self,
        stores: Mapping[str, NewestStore],
        settings: CopiesSettings,
        is_live: Callable[[str], bool] | None = None,
    ) -> None:
        self.background = Background(settings.background_bytes)
        self.counts: Counts = Counter()
        self.stopwatch = Stopwatch()
        self.gone = settings.gone
        """The addresses of stores that will never be back."""
        self.is_live = is_live or _always
        """Tells whether the store at an address is in the roster."""
        self.viewable: Mapping[str, ViewableStore] = {
            address: store for address, store in stores.items() if isinstance(store, ViewableStore)
        }
        self.heads_are_cheap = all(store.head_is_cheap for store in stores.values())
        """Whether all can ``look`` without reading bodies."""
        self.can_browse = all(isinstance(store, BrowsableStore) for store in stores.values())
        """Whether all can show their folders."""
        self._stores, self._cooling_s = stores, settings.cooling_s
        self._forgetful = {
            address: store
            for address, store in stores.items()
            if address == settings.may_lack and isinstance(store, ForgetfulStore)
        }
        self._turns = Turns()
        self._reads: dict[tuple[str, bytes, tuple[int, ...]], asyncio.Task[Answer]] = {}
        self._rests_until: dict[str, float] = {}
        self._complaints = Complaints()

    @property
    def addresses(self) -> list[str]:
        """The addresses of all stores."""
        return list(self._stores)

    def rests(self, address: str) -> bool:
        """Tell whether the store is left alone: it has failed a moment ago, or is not live."""
        if not self.is_live(address) or address in self.gone:
            return True
        return bool(self._rests_until) and self._rests_until.get(address, -inf) > _now()

    def has_failed(self, address: str) -> bool:
        """Tell whether the store has failed, and nobody has had an answer from it since."""
        return address in self._rests_until

    def resting(self, address: str) -> Unreachable:
        """Return the error for a store that rests and was not asked."""
        if address in self.gone:
            return Unreachable(address, "it is gone for good", applied=False, for_good=True)
        reason = "it has failed a moment ago, and is left alone for a while"
        if not self.is_live(address):
            reason = "it is not in the roster"
        return Unreachable(address, reason, applied=False)

    async def read(self, address: str, key: bytes) -> Answer:
        """Return what the store at ``address`` has under ``key``."""
        if address in self.gone or not self.is_live(address):
            return Answer(address, failure=self.resting(address))
        try:
            with self.stopwatch.of("get", address):
                record = await self._asked(address).get(key)
        except Exception as error:
            return Answer(address, failure=self._failed(address, error, applied=False))
        self._answered(address)
        return Answer(address, record)

    async def read_together(self, address: str, key: bytes) -> Answer:
        """Return the same; of all who ask so at the same time one asks the store, and what it says
        may be from before the others asked: not from before a store has forgotten something.
        """
        place = (address, key, tuple(self.moments(key).values()))
        read = self._reads.get(place)
        if read is None:
            read = self._reads[place] = self.background.start(self.read(address, key))
            read.add_done_callback(lambda _: self._reads.pop(place))
        return await asyncio.shield(read)

    async def look(self, address: str, key: bytes) -> Answer:
        """Return the same without the body, which is not looked at where the store can do that."""
        if address in self.gone or not self.is_live(address):
            return Answer(address, failure=self.resting(address))
        try:
            with self.stopwatch.of("head", address):
                head = await self._asked(address).head(key)
        except Exception as error:
            return Answer(address, failure=self._failed(address, error, applied=False))
        self._answered(address)
        return Answer(address, None if head is None else Record(head, b""))

    async def read_awake(self, address: str, key: bytes) -> Answer:
        """Return what ``read`` does, without asking a store that rests."""
        if self.rests(address):
            return Answer(address, failure=self.resting(address))
        return await self.read(address, key)

    async def look_awake(self, address: str, key: bytes) -> Answer:
        """Return what ``look`` does, without asking a store that rests."""
        if self.rests(address):
            return Answer(address, failure=self.resting(address))
        return await self.look(address, key)

    async def children(self, address: str, prefix: bytes, after: bytes, limit: int) -> list[Child]:
        """Return what the store at ``address`` has in a folder; ``can_browse`` must hold.

        Raises ``CannotList``, ``Unreachable``.
        """
        if self.rests(address):
            raise self.resting(address)
        store = self._asked(address)
        assert isinstance(store, BrowsableStore)
        try:
            with self.stopwatch.of("list", address):
                found = await store.children(prefix, after, limit)
        except CannotList:
            self._answered(address)
            raise
        except Exception as error:
            raise self._failed(address, error, applied=False) from error
        self._answered(address)
        return found

    def moments(self, key: bytes) -> Moments:
        """Return, of the stores that forget, up to where they have forgotten now; to be asked
        before what is to be written is looked for.
        """
        if not self._forgetful:
            return NO_MOMENTS
        return {address: store.moment(key) for address, store in self._forgetful.items()}

    async def write(
        self,
        address: str,
        key: bytes,
        record: Record,
        insist: bool = False,
        moments: Moments = NO_MOMENTS,
    ) -> Written:
        """Have the store keep ``record`` unless it has something newer, or had and has forgotten it
        since the ``moments``; ``insist``: even if it has failed a moment ago.

        Writes of one key to one store take turns: where a store cannot compare and write in one
        step, at least this process does not come between. A store whose damaged record is newer
        has not kept it: that is a failure, or ``newer`` where the store sees no damage.
        """
        async with self._turns.of((address, key)):
            may = self.is_live(address) and address not in self.gone
            if self.rests(address) and not (insist and may):
                return Written(address, failure=self.resting(address), asked=False)
            return await self._written(address, partial(self._set, address, key, record, moments))

    def _set(
        self, address: str, key: bytes, record: Record, moments: Moments
    ) -> Coroutine[Any, Any, Head | None]:
        if address in moments and address in self._forgetful:
            store = self._forgetful[address]
            return store.set_newest_since(key, record, moments[address])
        return self._stores[address].set_newest(key, record)

    async def forget(self, address: str, key: bytes, head: Head) -> Written:
        """Have a store that forgets remove what it has unless it is newer than ``head``, which
        others have got by now.
        """
        async with self._turns.of((address, key)):
            return await self._written(address, partial(self._forgetful[address].forget, key, head))

    async def _written(
        self, address: str, change: Callable[[], Coroutine[Any, Any, Head | None]]
    ) -> Written:
        try:
            self._asked(address)
            with self.stopwatch.of("set", address):
                newer = await change()
        except Exception as error:
            return Written(address, failure=self._failed(address, error, applied=None))
        self._answered(address)
        return Written(address, newer=newer)

    # ``sfss node`` and memcached look and remove in one step. On Beansdb, what another process
    # writes between the two is removed as well, on that one store; a heal brings it back. Writes
    # of this process do not come between.

    async def remove(self, address: str, key: bytes, head: Head) -> bool:
        """Make the store forget the record with ``head``, if that is what it is seen to have;
        return False if it is not, or if that failed.
        """
        return await self._removed(address, key, _only_if(head))

    async def remove_damaged(self, address: str, key: bytes, head: Head | None) -> bool:
        """Make the store forget a record that it was found to have damaged, unless it is seen to
        have another; return False if it is, or if that failed.

        ``head`` is that of the damaged record, None where the store did not tell it.
        """
        return await self._removed(address, key, _only_if_damaged(head))

    async def remove_up_to(self, address: str, key: bytes, head: Head) -> bool:
        """Make the store forget what it has under ``key``, damaged or not, unless it is seen to be
        newer than ``head``; return False if it is, or if that failed.
        """
        return await self._removed(address, key, unless_newer(head))

    async def _removed(self, address: str, key: bytes, guard: Guard) -> bool:
        if address in self.gone or not self.is_live(address):
            return False
        async with self._turns.of((address, key)):
            try:
                with self.stopwatch.of("delete", address):
                    await self._asked(address).delete(key, guard)
            except (_Another, HasNewer):
                return False
            except Exception as error:
                self._failed(address, error, applied=None)
                return False
        self._answered(address)
        return True

    async def room(self) -> int | None:
        """Return how many bytes a record may have so that all stores take it that do not rest."""
        awake = [store for address, store in self._stores.items() if not self.rests(address)]
        return await least_room(awake)

    async def stats(self) -> dict[str, dict[str, str]]:
        """Return the statistics of every store by address; ``error`` alone of one that fails.

        Those that rest are asked, too. Raises ``NoStoreReachable`` when all fail.
        """
        addresses = self.addresses
        answers = await asyncio.gather(*map(self._stats, addresses))
        found = dict(zip(addresses, answers, strict=True))
        failures = {address: each["error"] for address, each in found.items() if "error" in each}
        if len(failures) == len(found):
            raise NoStoreReachable(failures)
        return found

    async def failures(self, timeout_s: float) -> dict[str, str]:
        """Return why stores do not answer, by address; "" of those that do."""
        live = [store for address, store in self._stores.items() if self.is_live(address)]
        failures = await failures_of(live, timeout_s)
        away = {each: self.resting(each).reason for each in self._stores if each not in failures}
        return {**failures, **away}

    async def _stats(self, address: str) -> dict[str, str]:
        if not self.is_live(address):
            return {"error": self.resting(address).reason}
        try:
            return dict(await self._stores[address].stats())
        except Unreachable as error:
            return {"error": error.reason}
        except SfssError as error:
            return {"error": str(error)}

    async def close(self) -> None:
        """Close all stores."""
        for store in self._stores.values():
            await store.close()

    def _asked(self, address: str) -> NewestStore:
        store = self._stores.get(address)
        if store is None:
            raise Unreachable(address, "it is not among the stores", applied=False)
        if address in self._rests_until:
            # This request is the one that tries it again; the others see it rest on.
            self._rests_until[address] = _now() + self._cooling_s
        return store

    def _failed(self, address: str, error: Exception, applied: bool | None) -> SfssError:
        if not isinstance(error, SfssError):
            _log.error("store %s: unexpected", address, exc_info=error)
            return Unreachable(address, repr(error), applied)
        if isinstance(error, Unreachable):
            self._rests_until[address] = _now() + self._cooling_s
        else:
            self._rests_until.pop(address, None)
        if isinstance(error, Corrupt):
            self.counts["damaged"] += 1
        if isinstance(error, StoreError):
            self._complaints.failed(address, error)
        return error

    def _answered(self, address: str) -> None:
        if self._rests_until:
            self._rests_until.pop(address, None)
        self._complaints.answered(address)


def _always(address: str) -> bool:
    return True


def _now() -> float:
    return asyncio.get_running_loop().time()


def _only_if(expected: Head) -> Guard:
    def guard(found: Head | None) -> None:
        if found is None or rank(found) != rank(expected):
            raise _Another

    return guard


def _only_if_damaged(expected: Head | None) -> Guard:
    def guard(found: Head | None) -> None:
        # None: what is damaged counts as nothing there. Some stores read its header all the same.
        if found is not None and (expected is None or rank(found) != rank(expected)):
            raise _Another

    return guard
