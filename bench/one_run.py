"""Take one measure: python -m bench.one_run VARIANT MEASURE.  Prints the figures as a line of JSON.

Makes a basedir, and measures the master in a process of its own, so that nothing else is in the
figures of its CPU and memory.  --under runs that process under a profiler.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from bench import postgres
from bench.counters import preload
from bench.measures import MEASURES
from bench.variants import VARIANTS
from bench.variants import prepare

ROOT = Path(__file__).parents[1]
SECONDS = 8.0
# The part of a run's timeout that does not depend on SECONDS: the start, the warm-up, and measures
# of a fixed amount of work.
GRACE_S = 600
# How much of the log the error of a failed run quotes; its basedir is deleted.
LOG_LINES = 40


def temporary_folder() -> tempfile.TemporaryDirectory[str]:
    """Return a folder for runs: in $BENCH_DIR, which chooses the disk, or in the system's place."""
    return tempfile.TemporaryDirectory(prefix="bench-", dir=os.environ.get("BENCH_DIR"))


def run_in_new_basedir(variant: str, measure: str, **options: Any) -> dict[str, Any]:
    """Return the figures of one run on an empty database; `options` are those of run_in."""
    with temporary_folder() as folder:
        basedir = Path(folder) / "m"
        prepare(variant, basedir)
        return run_in(basedir, variant, measure, **options)


def run_in(
    basedir: Path,
    variant: str,
    measure: str,
    *,
    seconds: float = SECONDS,
    builders: int = 1,
    under: str = "",
) -> dict[str, Any]:
    """Return the figures of one run on a prepared basedir.  Raises RuntimeError if it fails."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    if MEASURES[measure].counted:
        environment |= preload(basedir.parent)
    command = [
        *shlex.split(under),
        *(sys.executable, "-m", "bench.measured", variant, measure, str(basedir)),
        *(str(seconds), str(builders)),
    ]
    done = subprocess.run(
        command, env=environment, stdout=subprocess.PIPE, text=True, timeout=seconds * 10 + GRACE_S
    )
    # A profiler may have printed other lines.
    figures = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode or not figures:
        log = (basedir / "twistd.log").read_text(encoding="utf-8", errors="replace")
        end = "\n".join(log.splitlines()[-LOG_LINES:])
        raise RuntimeError(f"{variant} {measure}: exit status {done.returncode}; its log:\n{end}")
    return dict(json.loads(figures[-1]))


def main() -> None:
    """Take one measure."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("variant", choices=VARIANTS)
    parser.add_argument("measure", choices=MEASURES)
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of each full load")
    parser.add_argument("--builders", type=int, default=1)
    parser.add_argument("--under", default="", help='such as "py-spy record -o out.svg --"')
    options = parser.parse_args()
    with postgres.server():
        print(json.dumps(run_in_new_basedir(**vars(options))))


if __name__ == "__main__":
    main()
