"""What remains of an embedded store after the power was cut: writes that were not synced are lost.

    python -m tests.lab.power_cut FOLDER --cuts 1000

Processes write to a store as in ``crashing``, and a small library (LD_PRELOAD) notes in which order
the data file was written and synced, and what was acknowledged. Then the power is cut at any moment
of that: what had been synced is on the disk, and of every other write any of its sectors, or none.
Another process opens what is left, reads everything, and looks through the file.

The last line printed is a report in JSON; the exit status is 1 if anything was wrong.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from struct import Struct
from typing import Final, NamedTuple, NoReturn

import uvloop

from sfss.stores.embedded import check_folder
from tests.lab.crashing import Writer, in_child, look_at, now_us, open_cluster
from tests.lab.ledger import Ledger

WORKERS: Final = 2
SECTOR: Final = 512
ANSWERS: Final = 500
LIES: Final = "lies"
"""What a disk does that says of each sync that it is done."""

_ENTRY: Final = Struct("=ciqq")

SOURCE: Final = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

struct __attribute__((packed)) entry { char type; int process; long long at, size; };

static int journal = -1;
static pthread_mutex_t turn = PTHREAD_MUTEX_INITIALIZER;
static ssize_t (*real_write)(int, const void *, size_t);

__attribute__((constructor)) static void begin(void) {
    real_write = dlsym(RTLD_NEXT, "write");
    journal = open(getenv("LAB_JOURNAL"), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0644);
}

static int is(int file, const char *name) {
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t size = readlink(link, path, sizeof path - 1);
    size_t wanted = strlen(name);
    return size >= (ssize_t)wanted && !memcmp(path + size - wanted, name, wanted);
}

static void note(char type, long long at, const struct iovec *parts, int count) {
    struct iovec all[1100];
    struct entry entry = {type, getpid(), at, 0};
    all[0].iov_base = &entry;
    all[0].iov_len = sizeof entry;
    for (int part = 0; part < count; part++) {
        all[part + 1] = parts[part];
        entry.size += parts[part].iov_len;
    }
    static ssize_t (*real)(int, const struct iovec *, int);
    if (!real) real = dlsym(RTLD_NEXT, "writev");
    pthread_mutex_lock(&turn);
    if (real(journal, all, count + 1) != (ssize_t)(sizeof entry + entry.size)) abort();
    pthread_mutex_unlock(&turn);
}

ssize_t pwrite64(int file, const void *bytes, size_t size, off64_t at) {
    static ssize_t (*real)(int, const void *, size_t, off64_t);
    if (!real) real = dlsym(RTLD_NEXT, "pwrite64");
    if (!is(file, "/data.mdb")) return real(file, bytes, size, at);
    struct iovec part = {(void *)bytes, size};
    note('w', at, &part, 1);
    ssize_t done = real(file, bytes, size, at);
    if (fcntl(file, F_GETFL) & O_DSYNC) note('d', 0, 0, 0);
    return done;
}

ssize_t pwrite(int file, const void *bytes, size_t size, off_t at) {
    return pwrite64(file, bytes, size, at);
}

ssize_t writev(int file, const struct iovec *parts, int count) {
    static ssize_t (*real)(int, const struct iovec *, int);
    if (!real) real = dlsym(RTLD_NEXT, "writev");
    if (is(file, "/data.mdb")) note('w', lseek(file, 0, SEEK_CUR), parts, count);
    return real(file, parts, count);
}

ssize_t pwritev(int file, const struct iovec *parts, int count, off_t at) {
    static ssize_t (*real)(int, const struct iovec *, int, off_t);
    if (!real) real = dlsym(RTLD_NEXT, "pwritev");
    if (is(file, "/data.mdb")) note('w', at, parts, count);
    return real(file, parts, count, at);
}

ssize_t write(int file, const void *bytes, size_t size) {
    struct iovec part = {(void *)bytes, size};
    if (is(file, "/said")) note('a', 0, &part, 1);
    else if (is(file, "/data.mdb")) note('w', lseek(file, 0, SEEK_CUR), &part, 1);
    return real_write(file, bytes, size);
}

int fdatasync(int file) {
    static int (*real)(int);
    if (!real) real = dlsym(RTLD_NEXT, "fdatasync");
    if (!is(file, "/data.mdb")) return real(file);
    note('b', 0, 0, 0);
    int status = real(file);
    if (!status) note('s', 0, 0, 0);
    return status;
}

int fsync(int file) {
    static int (*real)(int);
    if (!real) real = dlsym(RTLD_NEXT, "fsync");
    int status = real(file);
    if (!status && is(file, "/store")) note('f', 0, 0, 0);
    return status;
}

int link(const char *from, const char *to) {
    static int (*real)(const char *, const char *);
    if (!real) real = dlsym(RTLD_NEXT, "link");
    int status = real(from, to);
    size_t size = strlen(to);
    if (!status && size > 9 && !strcmp(to + size - 9, "/data.mdb")) note('l', 0, 0, 0);
    return status;
}
"""
"""Entries: w a write, d the last write of this process is on the disk, b a sync begins, s it is
done, l the file is given its name, f its folder is synced, a something was said.
"""


class Entry(NamedTuple):
    """One entry of a journal."""

    type: bytes
    process: int
    at: int
    data: bytes


def journal_of(file: Path) -> list[Entry]:
    """Return all entries."""

    def entries() -> Iterator[Entry]:
        text, position = file.read_bytes(), 0
        while position < len(text):
            kind, process, at, size = _ENTRY.unpack_from(text, position)
            position += _ENTRY.size
            yield Entry(kind, process, at, text[position : position + size])
            position += size

    return list(entries())


def durable(entries: list[Entry]) -> set[int]:
    """Return which of ``entries`` are writes that have certainly reached the disk."""
    found: set[int] = set()
    begun: dict[int, set[int]] = {}
    last: dict[int, int] = {}
    waiting: set[int] = set()
    for number, entry in enumerate(entries):
        if entry.type == b"w":
            waiting.add(number)
            last[entry.process] = number
        elif entry.type == b"d":
            found.add(last[entry.process])
        elif entry.type == b"b":
            begun[entry.process] = set(waiting)
        elif entry.type == b"s":
            found |= begun[entry.process]
            waiting -= begun[entry.process]
    return found


def has_name(entries: list[Entry], choose: random.Random) -> bool:
    """Tell whether the data file has its name after ``entries``, or may have it."""
    types = b"".join(entry.type for entry in entries if entry.type in b"lf")
    return b"lf" in types or (types.endswith(b"l") and choose.random() < 0.5)


def image(entries: list[Entry], choose: random.Random, disk_lies: bool) -> bytearray:
    """Return the data file as a power cut after ``entries`` may leave it."""
    synced = durable(entries)
    if disk_lies:
        # Of the last of what was said to be on the disk, some is not.
        synced -= set(sorted(synced)[-6:])
    data = bytearray()
    for number, entry in enumerate(entries):
        if entry.type != b"w":
            continue
        kind = "all" if number in synced else choose.choice(("all", "none", "some"))
        if kind == "all":
            _put(data, entry.at, entry.data)
        elif kind == "some":
            for start in range(0, len(entry.data), SECTOR):
                if choose.random() < 0.5:
                    _put(data, entry.at + start, entry.data[start : start + SECTOR])
    return data


def _put(data: bytearray, at: int, piece: bytes) -> None:
    data.extend(bytes(max(0, at + len(piece) - len(data))))
    data[at : at + len(piece)] = piece


def notes_arrivals(seed: str) -> bool:
    """Tell whether the store has the index of arrivals: every other has."""
    return int(seed) % 2 == 1


def write_for_ever(store: Path, said: int, seed: str, number: int) -> None:
    """Write, and say so, until the process is killed."""

    async def run() -> None:
        cluster = await open_cluster(store, True, notes_arrivals(seed))
        await Writer(cluster, said, seed, number, number * 1_000_000).run(0)

    uvloop.run(run())


def record(folder: Path, seed: str) -> None:
    """Fill a store in ``folder``, in processes that have the library."""
    # One makes the store, so that there is one file that gets its name.
    os.waitpid(in_child(lambda: check_folder(folder / "store", make=True)), 0)
    said = os.open(folder / "said", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    writers = [
        in_child(lambda number=number: write_for_ever(folder / "store", said, seed, number))  # type: ignore[misc]
        for number in range(WORKERS)
    ]
    while (folder / "said").read_bytes().count(b'"done"') < ANSWERS:
        time.sleep(0.01)
    for each in writers:
        os.kill(each, signal.SIGKILL)
        os.waitpid(each, 0)


@dataclass
class Cuts:
    """Power cuts of what is recorded in ``folder``."""

    folder: Path
    seed: int
    disk_lies: bool = False

    def run(self, cuts: int) -> dict[str, object]:
        """Cut the power so often; return a report."""
        entries = journal_of(self.folder / "journal")
        wrong: list[str] = []
        acknowledged = lost_writes = done = 0
        for turn in range(cuts):
            choose = random.Random(f"{self.seed} {turn}")
            # One of four while the store is being made.
            most = len(entries) if turn % 4 else self._made_at(entries)
            before = entries[: choose.randrange(1, most + 1)]
            ledger = Ledger()
            lines = [line for e in before if e.type == b"a" for line in e.data.splitlines()]
            ledger.read(lines, now_us())
            acknowledged += ledger.acknowledged
            lost_writes += sum(e.type == b"w" for e in before) - len(durable(before))
            data = image(before, choose, self.disk_lies) if has_name(before, choose) else None
            found = self._look(ledger, data)
            wrong += [f"cut {turn}, after {len(before)} entries: {each}" for each in found]
            done += 1
            if wrong:
                break
        return {
            "cuts": done,
            "acknowledged before them": acknowledged,
            "writes not synced": lost_writes,
            "wrong": wrong,
        }

    def _made_at(self, entries: list[Entry]) -> int:
        """Return how many entries there are before anything was said."""
        return next(number for number, entry in enumerate(entries) if entry.type == b"a")

    def _look(self, ledger: Ledger, data: bytearray | None) -> list[str]:
        store = self.folder / "after"
        shutil.rmtree(store, ignore_errors=True)
        store.mkdir()
        if data is not None:
            (store / "data.mdb").write_bytes(data)
        read_end, write_end = os.pipe()

        async def look() -> None:
            notes = notes_arrivals(str(self.seed))
            cluster = await open_cluster(store, not ledger.acknowledged, notes)
            await look_at(ledger, cluster, [store])

        def work() -> None:
            uvloop.run(look())
            with os.fdopen(write_end, "w") as pipe:
                json.dump(ledger.wrong, pipe)

        child = in_child(work)
        os.close(write_end)
        with os.fdopen(read_end) as pipe:
            said = pipe.read()
        if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) or not said:
            return ["the store cannot be read"]
        return list(json.loads(said))


def recorded(folder: Path, seed: int) -> None:
    """Have another process, with the library, ``record``."""
    source, library = folder / "journal.c", folder / "journal.so"
    source.write_text(SOURCE)
    compiler = shutil.which("gcc") or shutil.which("cc") or "cc"
    options = ["-shared", "-fPIC", "-O1", "-o", str(library), str(source), "-ldl", "-lpthread"]
    subprocess.run([compiler, *options], check=True)
    environ = {**os.environ, "LD_PRELOAD": str(library), "LAB_JOURNAL": str(folder / "journal")}
    command = [sys.executable, "-m", "tests.lab.power_cut", str(folder), "--seed", str(seed)]
    subprocess.run([*command, "--record"], env=environ, check=True)


def main() -> NoReturn:
    """Run, and print the report."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--cuts", type=int, default=50)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    parser.add_argument("--record", action="store_true")
    parser.add_argument("--disk-lies", action="store_true")
    options = parser.parse_args()
    if options.record:
        record(options.folder, str(options.seed))
        raise SystemExit(0)
    began_s = time.monotonic()
    recorded(options.folder, options.seed)
    report = Cuts(options.folder, options.seed, options.disk_lies).run(options.cuts)
    report |= {"seconds": round(time.monotonic() - began_s, 1), "seed": options.seed}
    print(json.dumps(report))
    raise SystemExit(bool(report["wrong"]))


if __name__ == "__main__":
    main()
