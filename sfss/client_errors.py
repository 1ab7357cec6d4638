"""What a client of a gateway is told when something was not done.

    ClientError                    str() is a sentence for a person, the server's where it said one
    ├── Unreachable                there was no answer, or one that was cut off: we cannot tell
    │   └── CannotTell             504: the gateway answered, the stores behind it did not
    ├── Damaged                    what came, or was kept, is not what it should be
    ├── Changed                    the file was replaced while it was being read
    ├── Unreadable                 the body that was to be sent cannot be read, or kept meanwhile
    └── Refused                    the gateway has said no, and means it; ``status`` says which
        ├── Unauthorized           401: a token is needed, or another one
        ├── Forbidden              403: the token is not for this
        ├── NotFound               404: there is no such file
        ├── ConditionFailed        412: the file is not as it was asked to be; nothing was changed
        ├── TooLarge               413: the file has more bytes than are taken
        ├── NoSuchRange            416: the file ends before what was asked for
        ├── TooManyRequests        429: ``retry_after_s`` says when to come back
        ├── Busy                   503: the gateway has no room for more now
        └── Full                   507: there is no room for the file

Absent (``NotFound``) is never unreachable: only who has it from a gateway says so.
"""


class ClientError(Exception):
    """Root of the tree. ``status`` is that of the answer, None where there was none;
    ``retry_after_s``: seconds after which the server wants to be asked again, if it has said;
    ``repeated``: an earlier try of the same request may have been heard.
    """

    repeated = False

    def __init__(
        self, sentence: str, status: int | None = None, retry_after_s: float | None = None
    ) -> None:
        super().__init__(sentence)
        self.sentence, self.status, self.retry_after_s = sentence, status, retry_after_s


class Unreachable(ClientError):
    """Raised when there was no whole answer. After a write: it may or may not have been done."""


class CannotTell(Unreachable):
    """Raised when no store that could tell has answered the gateway."""


class Damaged(ClientError):
    """Raised when bytes do not have the digest or the number that they should have."""


class Changed(ClientError):
    """Raised when a file was replaced while it was being read."""


class Unreadable(ClientError):
    """Raised when a body that was to be sent could not be read whole."""


class Refused(ClientError):
    """Raised when the gateway answered, and not with success."""


class Unauthorized(Refused):
    """Raised when there is no token, or a wrong one."""


class Forbidden(Refused):
    """Raised when the token is not for this."""


class NotFound(Refused):
    """Raised when there is no such file."""


class ConditionFailed(Refused):
    """Raised when a condition does not hold; nothing was changed."""


class TooLarge(Refused):
    """Raised when a file has more bytes than the server takes."""


class NoSuchRange(Refused):
    """Raised when a file has none of the bytes that were asked for."""


class TooManyRequests(Refused):
    """Raised when the server wants to be asked less."""


class Busy(Refused):
    """Raised when the server has no room for more now."""


class Full(Refused):
    """Raised when there is no room for the file."""


BY_STATUS: dict[int, type[ClientError]] = {
    401: Unauthorized,
    403: Forbidden,
    404: NotFound,
    412: ConditionFailed,
    413: TooLarge,
    416: NoSuchRange,
    429: TooManyRequests,
    503: Busy,
    504: CannotTell,
    507: Full,
}
"""What each status means; ``Refused`` what is not here."""
