"""Buildbot's tests on stock and on litebot's store: two processes at the same time."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

TIME_LIMIT_S = 15 * 60
LOG_TAIL_LINES = 15

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parent.parent


class RunFailed(Exception):
    """One side did not come to its end; the message says which and quotes what it said last."""


@dataclass(frozen=True)
class Result:
    """The outcome of one test, a name of outcomes.OUTCOMES, and what trial said about it."""

    outcome: str
    reason: str = ""


@dataclass(frozen=True)
class Side:
    """What one process found.

    `databases` counts those that litebot opened, `on_server` those of either that were on a server.
    """

    results: dict[str, Result]
    databases: int
    seconds: float
    on_server: int = 0


def run_both(
    source: Path,
    names: list[str],
    *,
    servers: tuple[str, str] = ("", ""),
    time_limit_s: float = TIME_LIMIT_S,
) -> tuple[Side, Side]:
    """Run tests of the Buildbot in `source` on stock and on litebot's store.

    `names` are packages, modules or tests, `servers` the urls of a database for each side, where
    databases are to be a server's.  Raises RunFailed where a process breaks down or takes longer
    than `time_limit_s`.
    """
    with tempfile.TemporaryDirectory(prefix="conformance-", ignore_cleanup_errors=True) as folder:
        sides = [
            _Process(store, source, server, names, Path(folder))
            for store, server in zip(("stock", "litebot"), servers, strict=True)
        ]
        try:
            stock, litebot = [side.wait(time_limit_s) for side in sides]
        finally:
            for side in sides:
                side.kill()
    return stock, litebot


class _Process:
    """One side, in a directory, a home and a process group of its own."""

    def __init__(
        self, store: str, source: Path, server: str, names: list[str], folder: Path
    ) -> None:
        self._store = store
        self._cwd = folder / store
        for name in ("home", "tmp"):
            (self._cwd / name).mkdir(parents=True)
        self._started_at = time.monotonic()
        script = str(HERE / "outcomes.py")
        with open(self._cwd / "log", "wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, script, store, str(source), server, "outcomes.json", *names],
                cwd=self._cwd,
                env=self._environment(source),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def _environment(self, source: Path) -> dict[str, str]:
        # The machine's programs and nothing else of it, so that the tests find the same everywhere.
        return {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": os.pathsep.join([str(source), str(REPOSITORY)]),
            "PYTHONUNBUFFERED": "1",
            "LC_ALL": "C.UTF-8",
            "HOME": str(self._cwd / "home"),
            "TMPDIR": str(self._cwd / "tmp"),
            # Tests with containers take one fixed port: they can't run on both sides at once.
            "DOCKER_HOST": "unix:///dev/null",
        }

    def wait(self, time_limit_s: float) -> Side:
        try:
            self._process.wait(max(0.0, self._started_at + time_limit_s - time.monotonic()))
        except subprocess.TimeoutExpired as error:
            raise RunFailed(
                f"{self._store} was not done after {time_limit_s:g} s and was killed; its last"
                f" lines:\n{self._log_tail()}"
            ) from error
        try:
            text = (self._cwd / "outcomes.json").read_text(encoding="utf-8")
        except FileNotFoundError as error:
            raise RunFailed(
                f"{self._store} exited with {self._process.returncode} and no outcomes; its last"
                f" lines:\n{self._log_tail()}"
            ) from error
        found = json.loads(text)
        results = {test: Result(*result) for test, result in found["results"].items()}
        return Side(results, found["databases"], found["seconds"], found["on_server"])

    def kill(self) -> None:
        """End the process and whatever it has started; its leader may be gone already."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def _log_tail(self) -> str:
        text = (self._cwd / "log").read_text(encoding="utf-8", errors="replace")
        return "\n".join(text.splitlines()[-LOG_TAIL_LINES:])
