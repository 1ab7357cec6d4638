"""Which stores should hold a key: pure, and the same in every process and every release.

``tests/golden/placement-ketama.json`` pins the answers; changing one would lose sight of files.
"""

from collections.abc import Sequence

from uhashring import HashRing

MEMCACHED_PORT = 11211


class KetamaRing:
    """Ketama over ``host:port`` names: the node that twemproxy (``distribution: ketama``, ``hash:
    md5``) and libmemcached (``ketama_weighted``) choose for the same key.

    Ketama:
    https://www.last.fm/user/RJ/journal/2007/04/10/rz_libketama_-_a_consistent_hashing_algo_for_memcache_clients
    """

    def __init__(self, addresses: Sequence[str]) -> None:
        self._names = {_ring_name(address): address for address in addresses}
        self._ring = HashRing(list(self._names), hash_fn="ketama")

    def owner(self, key: bytes) -> str:
        """Return the address whose share of the ring ``key`` falls into."""
        # uhashring hashes str(key): bytes would hash as "b'...'".
        return self._names[self._ring.get_node(key.decode("ascii"))]

    def order(self, key: bytes) -> list[str]:
        """Return all addresses, nearest first round the ring from ``key``."""
        points = self._ring.range(key.decode("ascii"), size=len(self._names))
        return [self._names[point["nodename"]] for point in points]


def _ring_name(address: str) -> str:
    # Both libmemcached and twemproxy leave the default port out of the name that they hash.
    host, _, port = address.rpartition(":")
    return host if port == str(MEMCACHED_PORT) else address
