"""Which files a full store lets go of: SIEVE. Pure.

Zhang, Yang, Yue, Vigfusson, Rashmi, "SIEVE is Simpler than LRU: an Efficient Turn-Key Eviction
Algorithm for Web Caches", NSDI 2024.

All files stand in a queue in the order in which they came. A hit marks a file as visited and moves
nothing. A hand goes through the queue from the oldest to the newest, and then again from the
oldest: a file that is visited loses its mark and stays where it stands, one that is not is evicted.
The hand stays where it was. New files come in at the other end, without a mark. In the paper a
request of what is there is a hit, whatever it asks for: so a file that is replaced keeps its place,
marked.

LRU, and S3-FIFO with its two queues and its ghosts, would write to the order of the files when they
are read, or more than once for each; here an order on disk is written when a file comes and when it
goes, and a hit costs one byte in memory.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple


class Arrival(NamedTuple):
    """A file of ``size`` bytes in the queue; those that came later have greater numbers."""

    number: int
    key: bytes
    size: int


class Picked(NamedTuple):
    """What the hand has passed: files ``chosen`` to go, and files ``spared``, whose marks are to be
    removed. ``hand``: it stands behind the file of that number; 0: before the oldest.
    """

    chosen: Sequence[Arrival]
    spared: Sequence[Arrival]
    hand: int


def pick(
    ahead: Sequence[Arrival],
    is_visited: Callable[[bytes], bool],
    wanted: int,
    most: int,
    is_end: bool,
) -> Picked:
    """Move the hand over files of the queue, those ``ahead`` of it in their order, until ``wanted``
    bytes or ``most`` files are chosen or there are no more; ``is_end``: the newest is among them.
    """
    chosen: list[Arrival] = []
    spared: list[Arrival] = []
    hand = 0
    for arrival in ahead:
        if wanted <= 0 or len(chosen) == most:
            return Picked(chosen, spared, hand)
        hand = arrival.number
        if is_visited(arrival.key):
            spared.append(arrival)
        else:
            chosen.append(arrival)
            wanted -= arrival.size
    return Picked(chosen, spared, 0 if is_end else hand)
