"""How many requests a second a client may make: a token bucket for each, all in one table. Pure.

A bucket is one number, the moment at which it will be full again (GCRA, ITU-T I.371, Annex A). It
has two cells of the table, found by hashes of the client's name, and counts as the lesser of them,
as in a count-min sketch (Cormode and Muthukrishnan 2005): so the table never grows, and two clients
are taken for one only where both cells are those of others. The table may be shared by processes.
"""


class Rates:
    """Gives each client ``per_s`` requests a second, and up to ``burst`` at once. ``cells`` are
    floats, 0 at first, a power of two of them; ``kind`` keeps clients apart from those of another.
    """

    def __init__(self, cells: "memoryview[float]", kind: str, per_s: float, burst: int) -> None:
        self._cells, self._kind, self._mask = cells, kind, len(cells) - 1
        self._each_s = 1 / per_s
        self._slack_s = (max(burst, 1) - 1) / per_s

    def wait_s(self, client: str, now_s: float) -> float:
        """Take a request of ``client`` on, and return 0; or return how many seconds are missing
        until there may be one. ``now_s``: of a clock that all processes share, never set back.
        """
        # Salted, so that nobody can look for clients that share cells; and by the same salt in all
        # workers, which are forked from one process.
        cells, number = self._cells, hash((self._kind, client))
        one, other = number & self._mask, number >> 32 & self._mask
        full_s = max(min(cells[one], cells[other]), now_s)
        missing_s = full_s - now_s - self._slack_s
        if missing_s > 0:
            return float(missing_s)
        full_s += self._each_s
        cells[one], cells[other] = max(cells[one], full_s), max(cells[other], full_s)
        return 0.0
