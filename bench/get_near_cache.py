"""How fast is a file of 1 KiB in a near cache, beside the bucket itself?

    python3 bench/get_near_cache.py [--rounds 5] [--seconds 3]

sfss with a local store before a bucket on moto, an S3 server in Python: what is here is served
without a question to the bucket. moto is far slower than a real S3 server on the same machine, and
far nearer than a bucket in another place: the row tells what a hit costs, beside the same file in
an embedded store alone, which is the ruler; it does not tell how fast S3 is. With a capacity, each
hit is marked, too.
"""

import os
import sys
from collections.abc import Iterator

import command
import rivals
from files import KIB, body
from harness import Contender, Group, Load, Plan, Versus, Void, all_running, compete

from tests.servers import SECRET, Server, s3

PATH = "pictures/near.bin"
_NEAR, _ALONE, _BUCKET = "sfss, near cache", "sfss, embedded store", "moto, directly"
_LIMITED = "sfss, near cache, capacity"


class OneFile(Contender):
    """A server asked for ``target``, and those behind it."""

    def __init__(self, name: str, servers: tuple[Server, ...], target: str) -> None:
        super().__init__(name, *servers)
        self._target = target

    def load(self, number: int) -> Load:
        """Return the same in each round."""
        return Load(self._target, body_size=KIB)

    def check(self, number: int, requests: int | None) -> None:
        """Compare the whole body."""
        rivals.expect(self.servers[0], self._target, body(PATH))


def question(plan: Plan) -> Iterator[Group]:
    """Yield the one group."""
    os.environ |= {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": SECRET}
    with plan.room() as folder:
        bucket = rivals.pinned(s3(folder))
        near = rivals.sfss_near_cache(folder, bucket.url)
        limited = rivals.sfss_near_cache(folder, bucket.url, "limited", 1 << 30)
        alone = rivals.sfss_embedded(folder, folder / "alone")
        with all_running(bucket, near, limited, alone):
            bucket.make_bucket("bench")
            # Whoever asks without a signature may read this one.
            bucket.put(f"bench/public/{PATH}", body(PATH), {"x-amz-acl": "public-read"})
            for gateway in (near, limited, alone):
                if gateway.put(PATH, body(PATH)).status != 200:
                    raise Void("a PUT failed")
            target = f"/file?path={PATH}"
            contenders = [
                OneFile(_NEAR, (near, bucket), target),
                OneFile(_LIMITED, (limited, bucket), target),
                OneFile(_ALONE, (alone,), target),
                OneFile(_BUCKET, (bucket,), f"/bench/public/{PATH}"),
            ]
            versus = [
                Versus(_NEAR, _ALONE, p99=None),
                Versus(_NEAR, _BUCKET, p99=None),
                Versus(_LIMITED, _NEAR, p99=None),
            ]
            yield compete("GET one hot file of 1 KiB, near cache", contenders, versus, plan)


if __name__ == "__main__":
    sys.exit(command.main({"get_near_cache": question}))
