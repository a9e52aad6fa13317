"""Computes the medians and ratios of a benchmark, prints its table and writes its JSON file."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import apsw
from rich.console import Console
from rich.table import Table

PACKAGES = ("litebot", "buildbot", "buildbot-worker", "Twisted", "SQLAlchemy", "apsw")
HERE = Path(__file__).parent


@dataclass(frozen=True)
class Row:
    """A row of a table: the name of a figure in JSON, and its title for people."""

    figure: str
    title: str


class Samples:
    """The values of each figure by name, such as a variant's: one value for each round."""

    def __init__(self) -> None:
        self._values: dict[str, dict[str, list[float]]] = {}

    def add(self, name: str, figures: Mapping[str, float | None]) -> None:
        """Add the figures of a run; one that is None could not be measured and is left out."""
        own = self._values.setdefault(name, {})
        for figure, value in figures.items():
            if value is not None:
                own.setdefault(figure, []).append(value)

    def median(self, name: str, figure: str) -> float | None:
        """Return the median of the rounds, or None without a sample."""
        values = self._values.get(name, {}).get(figure)
        return statistics.median(values) if values else None

    def ratio(self, name: str, figure: str, base: str) -> float | None:
        """Return the median over `base`'s, or None if one is missing or `base`'s is 0."""
        ours, theirs = self.median(name, figure), self.median(base, figure)
        return ours / theirs if ours is not None and theirs else None

    def as_json(self, against: Mapping[str, str]) -> dict[str, Any]:
        """Return name -> figure -> median, samples, and ratio to the name's value in `against`."""
        return {
            name: {
                figure: {
                    "median": self.median(name, figure),
                    "ratio": self.ratio(name, figure, against[name]),
                    "samples": values,
                }
                for figure, values in figures.items()
            }
            for name, figures in self._values.items()
        }


def table(title: str, samples: Samples, rows: Iterable[Row], against: Mapping[str, str]) -> Table:
    """Return a table with a column of medians for each key of `against`.

    A cell also has the ratio to the key's value in `against`, if that is another name.
    """
    made = Table("", *against, title=title)
    for row in rows:
        cells = []
        for name, base in against.items():
            median, ratio = samples.median(name, row.figure), samples.ratio(name, row.figure, base)
            shown = "-" if median is None else f"{median:,.4g}"
            cells.append(shown if ratio is None or name == base else f"{shown} ({ratio:.3g}x)")
        if any(cell != "-" for cell in cells):
            made.add_row(row.title, *cells)
    return made


def machine() -> dict[str, Any]:
    """Describe the machine and the versions, without which the figures mean little."""
    return {
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "system": platform.platform(),
        "processor": _processor(),
        "cpus": os.cpu_count(),
        "load": os.getloadavg()[0],
        "memory_gb": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9,
        "folder": os.environ.get("BENCH_DIR") or "the system's for temporary files",
        "python": platform.python_version(),
        "sqlite": {"litebot": apsw.sqlite_lib_version(), "stock": _stock_sqlite()},
        "commit": _commit(),
        "packages": {name: version(name) for name in PACKAGES},
    }


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    found = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return found[0] if found else platform.machine()


def _stock_sqlite() -> str:
    import sqlite3

    return sqlite3.sqlite_version


def _commit() -> str | None:
    command = ["git", "-C", str(HERE), "describe", "--always", "--dirty"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() or None


def write_json(path: Path, results: Mapping[str, Any]) -> None:
    """Write `results` and the machine they are from to a JSON file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"machine": machine(), **results}, indent=2) + "\n", "utf-8")


# A log file has no width, but the table needs one.
console = Console(width=None if sys.stdout.isatty() else 150)
progress = Console(stderr=True)
