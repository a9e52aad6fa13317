"""One run: python -m bench.one_run VARIANT MEASURE.  Prints its figures as a line of JSON.

Makes a basedir, and measures in a process of its own, so that the master's CPU and memory are the
master's alone.  --under puts a profiler in front of that process.
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
# Beside SECONDS: starts, warm-ups, and what takes as long as it takes.
GRACE_S = 600
# Of a run that fails, whose basedir is gone with it.
LOG_LINES = 40


def temporary_folder() -> tempfile.TemporaryDirectory[str]:
    """Where runs happen: in $BENCH_DIR, on the disk that matters, or where such folders go."""
    return tempfile.TemporaryDirectory(prefix="bench-", dir=os.environ.get("BENCH_DIR"))


def run_in_new_basedir(variant: str, measure: str, **options: Any) -> dict[str, Any]:
    """Figures of one run on an empty database; options are run_in's."""
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
    """Figures of one run on a prepared basedir.  Raises RuntimeError where the run fails."""
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
    # A profiler may have written more.
    figures = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode or not figures:
        log = (basedir / "twistd.log").read_text(encoding="utf-8", errors="replace")
        end = "\n".join(log.splitlines()[-LOG_LINES:])
        raise RuntimeError(f"{variant} {measure}: exit status {done.returncode}; its log:\n{end}")
    return dict(json.loads(figures[-1]))


def main() -> None:
    """Measure once."""
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
