"""Every error this service raises, as one tree.

::

    SfssError
    ├── SettingError           a setting is wrong: at the start or a reload, never by a request
    ├── RequestError           the asker has to change something
    │   ├── BadPath            the path breaks a rule
    │   ├── BadArgument        an argument of the request is missing or wrong
    │   ├── BadBody            the body is not what the request said it is
    │   ├── BodyTimeout        the body did not arrive in time
    │   ├── UnsupportedCoding  the body is compressed or otherwise coded
    │   ├── TooLarge           the file is over the service's or a store's limit
    │   ├── NotFound           no such file: every store that could hold it said so
    │   ├── QuotaExceeded      no more may be kept below a prefix
    │   ├── TooManyNames       the fields that are to be kept with a file are too many or large
    │   ├── PathTaken          a folder has that name, or a file that of a folder on the way
    │   ├── PreconditionFailed a condition that the request made does not hold
    │   └── Refused            it cannot be done as things are now
    └── StoreError             a store could not do its part
        ├── Unreachable        one store did not answer, or not in words we can trust
        ├── Unsettled          one file is changed all the time; the store is well
        ├── NoStoreReachable   none of the stores that could hold the path answered
        ├── QuorumFailed       too few stores have kept a write
        ├── StoreFull          the store has no room
        ├── Corrupt            what the store returned is not what was stored
        ├── CannotTell         the store answers, and would have to ask others that do not
        └── CannotList         the store has no way to list what it holds

Absence is not in the tree: a store that says "no such key" returns ``None``. An exception always
means that we cannot tell or may not do it. ``web.http`` holds the one table from these leaves to
HTTP statuses.
"""

from collections.abc import Mapping
from dataclasses import dataclass


class SfssError(Exception):
    """Root of the tree; never raised itself. ``str()`` of any leaf is a sentence for a person."""


@dataclass(eq=False)
class SettingError(SfssError):
    """Raised when a setting is unknown, of the wrong type or out of range."""

    source: str
    key: str
    found: str
    allowed: str

    def __str__(self) -> str:
        return f"{self.source}: {self.key}: {self.found}; {self.allowed}"


class RequestError(SfssError):
    """Root of what the asker can mend."""


@dataclass(eq=False)
class BadPath(RequestError):
    """Raised when a path breaks one of the rules in ``keys``."""

    rule: str

    def __str__(self) -> str:
        return f"bad path: {self.rule}"


@dataclass(eq=False)
class BadArgument(RequestError):
    """Raised when an argument of a request is missing or not one of the allowed values."""

    name: str
    found: str
    allowed: str

    def __str__(self) -> str:
        return f"bad argument: {self.name} is {self.found}; {self.allowed}"


@dataclass(eq=False)
class BadBody(RequestError):
    """Raised when a request body ends early, is malformed, or holds no file."""

    reason: str

    def __str__(self) -> str:
        return f"bad body: {self.reason}; nothing was stored"


@dataclass(eq=False)
class BodyTimeout(RequestError):
    """Raised when no byte of an announced body arrived for ``seconds``; or fewer than ``rate`` a
    second, for that much longer than they take.
    """

    seconds: float
    rate: int | None = None

    def __str__(self) -> str:
        if self.rate is not None:
            slow = f"the body came with fewer than {self.rate} bytes a second"
            return f"{slow}, for more than {self.seconds:g} s; nothing was stored"
        return f"no byte of the body arrived for {self.seconds:g} s; nothing was stored"


@dataclass(eq=False)
class UnsupportedCoding(RequestError):
    """Raised when a body comes coded, as its header ``field`` says: what would be stored is not the
    file.
    """

    coding: str
    field: str = "Content-Encoding"

    def __str__(self) -> str:
        return f"{self.field} {self.coding!r} is not supported; send the file itself"


@dataclass(eq=False)
class TooLarge(RequestError):
    """Raised when a file is larger than ``limit`` bytes (None: the store did not say). ``size`` is
    None when only "more" is known; ``former_lost`` as in ``StoreFull``.
    """

    size: int | None
    limit: int | None
    store: str | None = None
    former_lost: bool = False

    def __str__(self) -> str:
        found = "more than that" if self.size is None else f"{self.size} bytes"
        rule = f"a file may have at most {self.limit} bytes (cluster.max_file_size)"
        if self.store:
            limit = "fewer" if self.limit is None else f"at most {self.limit}"
            rule = f"store {self.store} takes {limit} bytes"
        return f"too large: {rule} and this has {found}; {_not_stored(self.former_lost)}"


def _not_stored(former_lost: bool) -> str:
    lost = ", and the store has dropped what was there before" if former_lost else ""
    return f"nothing was stored{lost}"


@dataclass(eq=False)
class NotFound(RequestError):
    """Raised by a face when the cluster knows that there is no file at ``path``."""

    path: str

    def __str__(self) -> str:
        return f"no such file: {self.path}"


@dataclass(eq=False)
class QuotaExceeded(RequestError):
    """Raised when a write would bring what lies below ``prefix`` above its ``limit``, in bytes or
    files (``what``): that is ``used``, and ``asked`` more were to come. None: it is not known yet
    what is there.
    """

    prefix: str
    what: str
    limit: int | None
    used: int | None
    asked: int

    def __str__(self) -> str:
        whose = f"the quota of {self.prefix}*" if self.prefix else "the quota of all files"
        if self.limit is None or self.used is None:
            return f"{whose}: what is there is still being counted; nothing was stored"
        rule = f"at most {self.limit} {self.what}, of which {self.used} are used"
        return f"{whose} is {rule}, and this needs {self.asked} more; nothing was stored"


@dataclass(eq=False)
class TooManyNames(RequestError):
    """Raised when the header fields that are to be kept with a file are more than ``allowed``."""

    found: str
    allowed: str

    def __str__(self) -> str:
        return f"too much to keep with the file: {self.found}; {self.allowed}; nothing was stored"


@dataclass(eq=False)
class PathTaken(RequestError):
    """Raised when a store of plain files cannot have a file at ``path``: a folder has that name, or
    a file has the name of one of the folders on the way.
    """

    store: str
    path: str
    reason: str

    def __str__(self) -> str:
        return f"store {self.store} cannot keep {self.path}: {self.reason}; nothing was stored"


@dataclass(eq=False)
class PreconditionFailed(RequestError):
    """Raised when the header field ``field`` (If-Match and its kin) does not hold for the file as
    it is.
    """

    field: str

    def __str__(self) -> str:
        return f"the condition {self.field} does not hold; nothing was changed"


@dataclass(eq=False)
class Refused(RequestError):
    """Raised when what is asked for does not go with the state that things are in."""

    reason: str

    def __str__(self) -> str:
        return f"refused: {self.reason}"


class StoreError(SfssError):
    """Root of what a store could not do."""


@dataclass(eq=False)
class Unreachable(StoreError):
    """Raised when one store gave no answer that can be trusted.

    ``applied`` says what is known of a write: False when it certainly was not done, None when it
    may have been. ``for_good``: the store will never be back, and what only it had is lost.
    """

    store: str
    reason: str
    applied: bool | None = None
    for_good: bool = False

    def __str__(self) -> str:
        return f"store {self.store} cannot be reached: {self.reason}"


@dataclass(eq=False)
class Unsettled(StoreError):
    """Raised when another program changes a file all the time, so that it cannot be read, or
    changed, whole. Nothing was done.
    """

    store: str
    key: bytes

    def __str__(self) -> str:
        key = self.key.decode("utf-8", "backslashreplace")
        return f"store {self.store}: another program keeps changing {key}"


@dataclass(eq=False)
class NoStoreReachable(StoreError):
    """Raised when every store that could hold the path failed; ``failures`` maps its address to the
    reason.
    """

    failures: Mapping[str, str]
    indeterminate: bool = False

    def __str__(self) -> str:
        reasons = ", ".join(f"{store} ({reason})" for store, reason in self.failures.items())
        tail = "; the change may or may not have been made" if self.indeterminate else ""
        return f"no store that could tell was reached: {reasons}{tail}"


@dataclass(eq=False)
class QuorumFailed(StoreError):
    """Raised when fewer stores than ``wanted`` have kept a write: ``got``; or as many, without the
    one that decides. ``failures`` maps the addresses of the others to reasons.

    What was kept stays kept: the write may win in the end, or be replaced. ``indeterminate``: a
    store that failed may have kept it, too.
    """

    wanted: int
    got: int
    failures: Mapping[str, str]
    indeterminate: bool = False

    def __str__(self) -> str:
        reasons = ", ".join(f"{store} ({reason})" for store, reason in self.failures.items())
        kept = f"{self.got} of the {self.wanted} stores that it needs have kept the change"
        if self.got >= self.wanted:
            kept = f"the store that decides has not kept the change; {self.got} others have"
        may = "; it may or may not be seen" if self.got or self.indeterminate else ""
        return f"{kept}{may}: {reasons}"


@dataclass(eq=False)
class StoreFull(StoreError):
    """Raised when a store has no room for the file.

    ``former_lost``: by refusing the file, the store dropped the one that it would have replaced.
    """

    store: str
    reason: str
    former_lost: bool = False

    def __str__(self) -> str:
        return f"store {self.store} is full: {self.reason}; {_not_stored(self.former_lost)}"


@dataclass(eq=False)
class Corrupt(StoreError):
    """Raised when bytes from a store fail their check; they are never served."""

    store: str
    key: bytes
    expected: str
    found: str

    @property
    def damage(self) -> str:
        """What is wrong, without the names of store and key."""
        return f"expected {self.expected}, found {self.found}"

    def __str__(self) -> str:
        key = self.key.decode("utf-8", "backslashreplace")
        return f"store {self.store} holds a damaged {key}: {self.damage}"


@dataclass(eq=False)
class CannotTell(StoreError):
    """Raised when a store that answers does not have something itself, and cannot ask others behind
    it that may have it. It can be written to.
    """

    store: str
    reason: str = "what it would have to ask does not answer"

    def __str__(self) -> str:
        return f"store {self.store} cannot tell: {self.reason}"


@dataclass(eq=False)
class CannotList(StoreError):
    """Raised when files were to be listed and the store has no way to, or is set up without it."""

    store: str
    reason: str = "its protocol has no command for it"

    def __str__(self) -> str:
        return f"the files of {self.store} cannot be listed: {self.reason}"
