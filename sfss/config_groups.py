"""Groups of stores, each as a cluster by itself: ``replicated.placement`` "groups". Pure."""

from dataclasses import replace
from typing import NamedTuple

from sfss.checks import read_shard
from sfss.config import Settings


class Part(NamedTuple):
    """One group: its ``settings`` are those of a cluster that has no other stores and mirrors
    everything. ``takes``: new files may go there.
    """

    name: str
    settings: Settings
    takes: bool


def has_groups(settings: Settings) -> bool:
    """Tell whether there are groups."""
    return settings.cluster.kind == "replicated" and settings.replicated.placement == "groups"


def groups_of(settings: Settings) -> list[Part]:
    """Return the groups, those with a store that is preferred first, and such a store first in its
    group. Each has a folder of its own for what its stores still have to get.
    """
    parts = [_part(settings, *read_shard(text)) for text in settings.replicated.shards]
    preferred = set(settings.replicated.preferred)
    return sorted(parts, key=lambda part: preferred.isdisjoint(part.settings.replicated.stores))


def parts_of(settings: Settings) -> list[Part]:
    """Return the groups; where there are none, all as one, without a name."""
    return groups_of(settings) if has_groups(settings) else [Part("", settings, True)]


def _part(settings: Settings, name: str, _: int, stores: tuple[str, ...]) -> Part:
    options = settings.replicated
    alone = replace(
        options,
        placement="mirror",
        shards=(),
        stores=tuple(sorted(stores, key=lambda store: store not in options.preferred)),
        preferred=(),
        read_only=(),
        owed_folder=f"{options.owed_folder.rstrip('/')}/{name}",
    )
    takes = set(options.read_only).isdisjoint(stores)
    return Part(name, replace(settings, replicated=alone), takes)
