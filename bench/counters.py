"""Counts what a process has used so far: CPU time, memory, syncs and written bytes."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

SOURCE = Path(__file__).with_name("counters.c")
RING = 4096  # TIMES in counters.c


def preload(folder: Path) -> dict[str, str]:
    """Return the environment in which a process counts its syncs and writes.

    It is empty on a machine without a C compiler.  Only the calls of the process itself are
    counted, and so nothing that a Postgres server does.
    """
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        return {}
    library = folder / "counters.so"
    if not library.exists():
        command = [compiler, "-shared", "-fPIC", "-O2", "-o", str(library), str(SOURCE), "-ldl"]
        subprocess.run(command, check=True)
    return {"LD_PRELOAD": str(library)}


@cache
def _library() -> Any:
    library = ctypes.CDLL(None)
    return library if hasattr(library, "bench_syncs") else None


@dataclass(frozen=True)
class Usage:
    """What this process has used since it began.

    `syncs` and `written_bytes` are None if the process does not count them.
    """

    at_s: float
    cpu_s: float
    syncs: int | None
    written_bytes: int | None

    @classmethod
    def now(cls) -> Usage:
        """Return what has been used until now; `at_s` is on the monotonic clock."""
        syncs, written = _counter("bench_syncs"), _counter("bench_bytes")
        return cls(time.monotonic(), time.process_time(), syncs, written)


def _counter(name: str) -> int | None:
    library = _library()
    return ctypes.c_longlong.in_dll(library, name).value if library else None


def covering_syncs() -> list[float]:
    """Return when the latest syncs that made something durable ended, in monotonic seconds."""
    count = _counter("bench_covering")
    if count is None:
        return []
    times = (ctypes.c_double * RING).in_dll(_library(), "bench_covering_at")
    return [times[n % RING] for n in range(max(0, count - RING), count)]


def resident_mb() -> float:
    """Return how much memory of this process is in RAM now, in MB of 10^6 bytes."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def age_s() -> float:
    """Return how long ago this process was started, with a resolution of 10 ms."""
    fields = Path("/proc/self/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    started_s = int(fields[19]) / os.sysconf("SC_CLK_TCK")
    return time.clock_gettime(time.CLOCK_BOOTTIME) - started_s
