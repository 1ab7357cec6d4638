"""SIEVE against the definition of the paper, with files of one byte and one eviction at a time."""

from collections.abc import Sequence

from hypothesis import example, given, settings
from hypothesis import strategies as st

from sfss.sieve import Arrival, pick


class Paper:
    """Algorithm 1 of the paper, word for word, on a list whose end is the head."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.queue: list[bytes] = []
        self.visited: dict[bytes, bool] = {}
        self.hand: bytes | None = None

    def request(self, key: bytes) -> bool:
        """Return whether it is a hit."""
        if key in self.visited:
            self.visited[key] = True
            return True
        if len(self.queue) == self.capacity:
            self._evict()
        self.queue.append(key)
        self.visited[key] = False
        return False

    def _evict(self) -> None:
        entry = self.queue[0] if self.hand is None else self.hand
        while self.visited[entry]:
            self.visited[entry] = False
            entry = self._newer(entry) or self.queue[0]
        self.hand = self._newer(entry)
        self.queue.remove(entry)
        del self.visited[entry]

    def _newer(self, key: bytes) -> bytes | None:
        place = self.queue.index(key) + 1
        return self.queue[place] if place < len(self.queue) else None


class Ours:
    """A cache that asks ``pick``, which sees ``width`` files at a time."""

    def __init__(self, capacity: int, width: int) -> None:
        self.capacity, self.width = capacity, width
        self.numbers: dict[bytes, int] = {}
        self.last = self.hand = 0
        self.visited: set[bytes] = set()

    @property
    def queue(self) -> list[bytes]:
        """The keys in their order."""
        return sorted(self.numbers, key=self.numbers.__getitem__)

    def request(self, key: bytes) -> bool:
        """Return whether it is a hit."""
        if key in self.numbers:
            self.visited.add(key)
            return True
        if len(self.numbers) == self.capacity:
            while not self._step(1, 1):
                pass
        self.last += 1
        self.numbers[key] = self.last
        return False

    def ahead(self) -> Sequence[Arrival]:
        """Return what the hand has before it, and whether there is more."""
        behind = [Arrival(self.numbers[key], key, 1) for key in self.queue]
        return [each for each in behind if each.number > self.hand][: self.width + 1]

    def _step(self, wanted: int, most: int) -> int:
        ahead = self.ahead()
        is_visited = self.visited.__contains__
        is_end = len(ahead) <= self.width
        picked = pick(ahead[: self.width], is_visited, wanted, most, is_end)
        for arrival in picked.spared:
            self.visited.remove(arrival.key)
        for arrival in picked.chosen:
            del self.numbers[arrival.key]
        self.hand = picked.hand
        return len(picked.chosen)


keys = st.lists(st.integers(0, 12).map(lambda number: b"%d" % number), max_size=200)


@settings(max_examples=1000)
@given(keys, st.integers(1, 10), st.integers(1, 12))
@example([b"a", b"b", b"a", b"c", b"d"], 2, 2)
def test_what_is_evicted_is_what_the_paper_says(
    requests: list[bytes], capacity: int, width: int
) -> None:
    paper, ours = Paper(capacity), Ours(capacity, width)
    for key in requests:
        assert ours.request(key) == paper.request(key)
        assert ours.queue == paper.queue
        assert ours.visited == {each for each, is_marked in paper.visited.items() if is_marked}


def arrivals(*sizes: int) -> list[Arrival]:
    """Return files of these sizes, numbered from 1."""
    return [Arrival(number, b"%d" % number, size) for number, size in enumerate(sizes, 1)]


def nobody(key: bytes) -> bool:
    """Tell of no file that it was read."""
    return False


def test_no_more_is_chosen_than_is_wanted() -> None:
    assert pick(arrivals(5, 5, 5), nobody, 6, 9, True).chosen == arrivals(5, 5)
    assert pick(arrivals(5, 5, 5), nobody, 6, 9, True).hand == 2
    assert pick(arrivals(5, 5, 5), nobody, 6, 1, True).chosen == arrivals(5)


def test_the_hand_goes_on_from_the_oldest() -> None:
    assert pick(arrivals(5, 5), nobody, 99, 9, False).hand == 2
    assert pick(arrivals(5, 5), nobody, 99, 9, True).hand == 0
    assert pick([], nobody, 99, 9, True) == ([], [], 0)


def test_what_is_visited_is_spared_and_not_touched() -> None:
    picked = pick(arrivals(1, 2, 3), lambda key: key == b"1", 2, 9, True)
    assert picked.spared == arrivals(1)
    assert [each.number for each in picked.chosen] == [2]
    assert picked.hand == 2
