"""A wall clock that tests set: for processes, as the system's would be; the monotonic one goes on.

A small library that is loaded before all others (LD_PRELOAD) adds what a file says to the time.
libfaketime does more, and gunicorn's workers do not start under it.
"""

import os
import shutil
import struct
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

HOUR_S = 3600

_SOURCE = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>

static volatile int64_t *ahead;
static int (*real)(clockid_t, struct timespec *);

__attribute__((constructor)) static void begin(void) {
    int file = open(getenv("LAB_CLOCK"), O_RDONLY | O_CLOEXEC);
    void *map = file < 0 ? MAP_FAILED : mmap(0, 8, PROT_READ, MAP_SHARED, file, 0);
    ahead = map == MAP_FAILED ? 0 : map;
    real = dlsym(RTLD_NEXT, "clock_gettime");
}

int clock_gettime(clockid_t which, struct timespec *now) {
    if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
    int status = real(which, now);
    if (!status && ahead && (which == CLOCK_REALTIME || which == CLOCK_REALTIME_COARSE))
        now->tv_sec += *ahead;
    return status;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    struct timespec exact;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &exact);
    now->tv_sec = exact.tv_sec;
    now->tv_usec = exact.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *to) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (to) *to = now.tv_sec;
    return now.tv_sec;
}
"""


class WallClock:
    """A wall clock for processes that are started with ``environ``; its files are in ``folder``."""

    def __init__(self, folder: Path) -> None:
        compiler = shutil.which("gcc") or shutil.which("cc")
        if compiler is None:
            pytest.skip("a clock that can be set needs a C compiler")
        library, source = folder / "clock.so", folder / "clock.c"
        source.write_text(_SOURCE)
        command = [compiler, "-shared", "-fPIC", "-O1", "-o", str(library), str(source), "-ldl"]
        subprocess.run(command, check=True)
        self._file = folder / "clock"
        self._file.write_bytes(bytes(8))
        self.environ: Mapping[str, str] = {
            "LD_PRELOAD": str(library),
            "LAB_CLOCK": str(self._file),
        }

    def set(self, ahead_s: int) -> None:
        """Set the clock so many seconds ahead of the right time, or back."""
        with self._file.open("r+b", buffering=0) as file:
            os.pwrite(file.fileno(), struct.pack("q", ahead_s), 0)
