"""Small disks that fill up: real file systems, mounted for a test."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.servers import lacking

_PIECE = 64 * 1024
_PAGE = 4096


class Disk:
    """The file system at ``path``."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._ballast = path / "ballast"

    @property
    def free(self) -> int:
        """Bytes that are left."""
        status = os.statvfs(self.path)
        return status.f_bavail * status.f_frsize

    def fill(self, leave: int = 0) -> None:
        """Fill it as another program would, but for ``leave`` bytes."""
        with self._ballast.open("ab", buffering=0) as file:
            for piece in (_PIECE, _PAGE):
                while self.free >= leave + piece:
                    try:
                        file.write(bytes(piece))
                    except OSError:
                        break

    def make_room(self) -> None:
        """Remove what ``fill`` has put there."""
        self._ballast.unlink()


@contextmanager
def small_disk(path: Path, size_mib: int) -> Iterator[Disk]:
    """Have a file system of its own at ``path`` for the block; skip the test where none can be."""
    mount, umount = shutil.which("mount"), shutil.which("umount")
    if os.getuid() != 0 or mount is None or umount is None:
        lacking("mounting a small disk needs root and mount")
    path.mkdir()
    command = [mount, "-t", "tmpfs", "-o", f"size={size_mib}m", "tmpfs", str(path)]
    mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    if mounted.returncode:
        lacking(f"a small disk cannot be mounted here: {mounted.stderr.strip()}")
    try:
        yield Disk(path)
    finally:
        subprocess.run([umount, "-l", str(path)], check=True)
