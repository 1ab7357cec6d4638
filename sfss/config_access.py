"""The settings of who may do what, and the rules that they make. Pure."""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

from sfss.checks import Check, Hidden
from sfss.declaring import setting
from sfss.errors import SettingError
from sfss.grants import ADMIN, CHANGES, EVERYDAY, SCOPES, WRITE, Grant, Rules, read_token
from sfss.listening import Listen, is_loopback
from sfss.prefixes import ESCAPES_AND_SPACES

ADMIN_TOKEN: Final = "server.admin_token"
"""The name of the token that is set there."""

_TAKES_FILES: Final = frozenset({"native", "paths", "upload", "blobs", "objects"})

_SIGNING_KEY: Final = re.compile(r"([A-Za-z0-9_.-]{1,64}) ([!-~]{16,1000})")


def _some_of(*words: str) -> Check:
    """A list of some of a few words, or of none, none of them twice."""
    named = ", ".join(f'"{word}"' for word in words)

    def holds(values: Sequence[object]) -> bool:
        return all(value in words for value in values) and len(set(values)) == len(values)

    return Check(f"a list of different ones of {named}, or an empty one", holds)


def _are_tokens(values: Sequence[str]) -> bool:
    """Tell whether all are tokens, with different names and secrets."""
    try:
        found = [read_token(value) for value in values]
    except ValueError:
        return False
    names, digests = {grant.name for _, grant in found}, {digest for digest, _ in found}
    return len(names) == len(digests) == len(values)


def _are_signing_keys(values: Sequence[str]) -> bool:
    found = [_SIGNING_KEY.fullmatch(value) for value in values]
    return len({match[1] for match in found if match is not None}) == len(values)


TOKENS: Final = Check(
    'a list of "NAME sha256:HEX SCOPE+SCOPE", behind it, if you like, prefixes of paths ('
    + ESCAPES_AND_SPACES
    + ') and "until=YYYY-MM-DD"; names and secrets different; the scopes are '
    + ", ".join(SCOPES),
    _are_tokens,
)
SIGNING_KEYS: Final = Hidden(
    'a list of "NAME SECRET", names different, each secret 16 to 1000 characters of ASCII without'
    " spaces",
    _are_signing_keys,
)


@dataclass(frozen=True, slots=True)
class AccessSettings:
    """Who may do what: read, write, delete, list, admin."""

    tokens: tuple[str, ...] = setting(
        (),
        'for each token "NAME sha256:HEX SCOPE+SCOPE PREFIX ... until=YYYY-MM-DD", of which the'
        " last two may be missing; sfss token makes one",
        TOKENS,
    )
    anonymous: tuple[str, ...] = setting(
        EVERYDAY,
        "what anybody may without a token; on an address that other machines reach, or for whom"
        " a proxy asks, of this only read and list, and what open_to_the_network names",
        _some_of(*SCOPES),
    )
    open_to_the_network: tuple[str, ...] = setting(
        (),
        "what of anonymous anybody may on an address that other machines reach, beside read and"
        " list: write, delete, admin",
        _some_of(*CHANGES),
    )
    signing_keys: tuple[str, ...] = setting(
        (),
        'for signed URLs, "NAME SECRET" each; sfss sign uses the first, and all are good. Better'
        " set in the environment than in a file",
        SIGNING_KEYS,
    )


def signing_keys_of(settings: AccessSettings) -> dict[str, bytes]:
    """Return the keys of signed URLs by their names, in order."""
    pairs = (entry.split(" ") for entry in settings.signing_keys)
    return {name: secret.encode() for name, secret in pairs}


def rules_of(access: AccessSettings, admin_token: str = "") -> Rules:
    """Return the rules that the settings make."""
    tokens = dict(map(read_token, access.tokens))
    if admin_token:
        digest = sha256(admin_token.encode()).digest()
        tokens.setdefault(digest, Grant(ADMIN_TOKEN, frozenset({ADMIN})))
    anybody = frozenset(access.anonymous)
    network = anybody - (set(CHANGES) - set(access.open_to_the_network))
    return Rules(tokens, anybody, network, signing_keys_of(access))


def check_access(access: AccessSettings, source: str) -> None:
    """Raise ``SettingError`` where the network is opened for what nobody may at all."""
    for scope in access.open_to_the_network:
        if scope not in access.anonymous:
            wanted = f'access.anonymous has no "{scope}": add it there, too'
            key = "access.open_to_the_network"
            raise SettingError(source, key, f'has "{scope}"', wanted)


def warnings_of(rules: Rules, listeners: Iterable[Listen]) -> Iterator[str]:
    """Yield what has to be said at a start of ``listeners`` that other machines reach."""
    for listen in listeners:
        if is_loopback(listen.host_and_port[0]):
            continue
        if opened := [scope for scope in CHANGES if scope in rules.network]:
            yield (
                f"WHOEVER REACHES {listen.address} MAY {', '.join(opened).upper()} WITHOUT A TOKEN,"
                " as access.open_to_the_network says"
            )
        elif _TAKES_FILES & set(listen.faces) and not rules.has_token(WRITE):
            yield (
                f"nobody may write at {listen.address}, which other machines reach: there is no"
                f' token with the scope "write" (sfss token makes one), and'
                " access.open_to_the_network does not name it"
            )
