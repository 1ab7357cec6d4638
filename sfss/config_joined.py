"""A cluster of gateways that have joined each other, as one of stores with copies. Pure."""

from collections.abc import Sequence
from dataclasses import replace

from sfss.checks import read_address
from sfss.config import Settings
from sfss.errors import SettingError
from sfss.listening import Listen, is_loopback
from sfss.member_state import State


def is_joined(settings: Settings) -> bool:
    """Tell whether the stores are those of gateways that have joined each other."""
    return settings.cluster.kind == "joined"


def bound(settings: Settings) -> tuple[Listen, ...]:
    """Return all that is listened on: as ``Settings.listeners``, and, the last, without faces, the
    address for other members, where there can be any.
    """
    listeners = settings.listeners()
    if not is_joined(settings):
        return listeners
    return (*listeners, Listen(settings.discovery.listen or settings.discovery.advertise, ()))


def members_of(settings: Settings, state: State) -> Sequence[str]:
    """Return the addresses of the members: of this one alone, where it knows of no cluster."""
    if state.membership is None:
        return (settings.discovery.advertise,)
    return state.membership.addresses


def joined_settings(settings: Settings, state: State, roster: str) -> Settings:
    """Return ``settings`` as those of a cluster with copies on the stores of the members; the file
    ``roster`` says who of them is live.
    """
    membership = state.membership
    former = () if membership is None else membership.former_addresses
    options = replace(
        settings.replicated,
        placement="ketama",
        stores=tuple(members_of(settings, state)),
        former_stores=former,
        roster="" if membership is None else roster,
        roster_check_s=settings.discovery.heartbeat_s,
    )
    memcached = replace(settings.memcached, secret=settings.discovery.secret)
    cluster = replace(settings.cluster, kind="replicated")
    return replace(settings, cluster=cluster, replicated=options, memcached=memcached)


def check_joined(settings: Settings, source: str) -> None:
    """Raise ``SettingError`` for settings with which this gateway cannot be a member."""
    options = settings.discovery
    if not options.advertise:
        wanted = 'cluster.kind "joined" needs the "host:port" at which other members reach this one'
        raise SettingError(source, "discovery.advertise", "is empty", wanted)
    for name in ("stores", "shards", "former_stores", "former_shards", "roster", "first_decides"):
        if getattr(settings.replicated, name):
            wanted = 'cluster.kind "joined" has its members for stores'
            raise SettingError(source, f"replicated.{name}", "is not used", wanted)
    if settings.memcached.raw:
        wanted = "copies need versions, so records: raw must be false"
        raise SettingError(source, "memcached.raw", "is true", wanted)
    for name in ("advertise", "listen"):
        address = getattr(options, name)
        if address and not options.secret and not _is_loopback(address):
            found = f"is empty, and discovery.{name} is {address!r}"
            wanted = "members that others can reach need a secret"
            raise SettingError(source, "discovery.secret", found, wanted)


def _is_loopback(address: str) -> bool:
    found = read_address(address)
    return found is not None and is_loopback(found[0])
