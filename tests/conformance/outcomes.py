"""Run tests of Buildbot's own suite and write each one's outcome as JSON.

    python outcomes.py stock|litebot SOURCE SERVER OUTCOMES.json NAME [NAME ...]

SOURCE is the directory that holds the package buildbot with its tests; it must also come first on
PYTHONPATH, for the processes that tests start.  A NAME is a package, a module or a test.  With
"litebot" the database connector, the data connector and the botmaster of Buildbot are replaced by
litebot's before any test is loaded, on files rather than in memory; the tests themselves are
untouched.  SERVER is "", or the url of a database on a Postgres server beside which others are
made; then they take the places of those in memory, on either side.  Trial leaves its _trial_temp
in the current directory.

OUTCOMES.json is {"databases": N, "on_server": M, "seconds": S, "results": {TEST: [OUTCOME,
REASON]}}: how many databases litebot opened, how many were on the server, how long it took, and
for each test one of OUTCOMES with what trial said about it.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING
from typing import Any

from twisted.python.failure import Failure
from twisted.trial import reporter
from twisted.trial import runner

if TYPE_CHECKING:
    from server import Databases

# From best to worst; a test that reports twice, as one that fails in its clean-up, has the worse.
OUTCOMES = (
    "unfinished",
    "passed",
    "todo",
    "skipped",
    "unexpected success",
    "failed",
    "error",
    "not loaded",
)

# Buildbot's suite makes every warning an error, also those of packages released after it.
LATER_WARNINGS = (
    # Twisted 26.10, when buildbot.util.ssl takes everything that twisted.internet.ssl has.
    r"twisted\.internet\.ssl\.ProtocolNegotiationSupport was deprecated in Twisted",
)


class Recorder(reporter.TreeReporter):
    """Prints as trial does and keeps what each test reported."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.results: dict[str, tuple[str, str]] = {}

    def _keep(self, test: Any, outcome: str, reason: str = "") -> None:
        before, _ = self.results.get(test.id(), (OUTCOMES[0], ""))
        if OUTCOMES.index(outcome) >= OUTCOMES.index(before):
            self.results[test.id()] = (outcome, reason)

    def startTest(self, test: Any) -> None:
        super().startTest(test)
        self._keep(test, "unfinished")

    def addSuccess(self, test: Any) -> None:
        super().addSuccess(test)
        self._keep(test, "passed")

    def addFailure(self, test: Any, fail: Any) -> None:
        super().addFailure(test, fail)
        self._keep(test, "failed", _text(fail))

    def addError(self, test: Any, error: Any) -> None:
        super().addError(test, error)
        # A module that can't be imported stands in the suite as an ErrorHolder.
        outcome = "not loaded" if isinstance(test, runner.ErrorHolder) else "error"
        self._keep(test, outcome, _text(error))

    def addSkip(self, test: Any, reason: Any) -> None:
        super().addSkip(test, reason)
        self._keep(test, "skipped", str(reason))

    def addExpectedFailure(self, test: Any, error: Any, todo: Any = None) -> None:
        super().addExpectedFailure(test, error, todo)
        self._keep(test, "todo")

    def addUnexpectedSuccess(self, test: Any, todo: Any = None) -> None:
        super().addUnexpectedSuccess(test, todo)
        self._keep(test, "unexpected success")


def _text(error: Any) -> str:
    failure = error if isinstance(error, Failure) else Failure(error[1], error[0], error[2])
    return str(failure.getTraceback())


class Opened:
    """How many databases litebot has opened."""

    count = 0


def use_parts(store: str, server: str, folder: Path) -> tuple[Opened, Databases | None]:
    """Put what a side consists of where Buildbot's tests find Buildbot's.

    Tests ask for a database in memory; they get the real thing, on the server where one is named,
    or else, of litebot, a file in `folder`.
    """
    early = {"buildbot.master", "buildbot.test.fakedb"} & sys.modules.keys()
    if early:
        raise RuntimeError(f"{early} took Buildbot's parts before they were replaced")
    opened = Opened()
    if store == "litebot":
        use_litebot(folder, opened)
    if not server:
        return opened, None
    from buildbot.db import connector
    from server import Databases
    from server import keep_tables
    from server import on_server

    databases = Databases(server, litebots=store == "litebot")
    connector.DBConnector = on_server(connector.DBConnector, databases)
    from buildbot.test import fakedb  # which takes it

    keep_tables(fakedb.FakeDBConnector)
    return opened, databases


def use_litebot(folder: Path, opened: Opened) -> None:
    """Put litebot's parts in the places of Buildbot's."""
    from buildbot.data import connector as data
    from buildbot.db import connector
    from buildbot.process import botmaster

    from litebot.master.builds.distributor import BotMaster
    from litebot.master.data.connector import Data
    from litebot.master.database import Database
    from litebot.master.db import tables

    class Counted(Database):
        durability = "commit"  # the clocks of many tests stand still: no commit may wait for one

        def setup(self, check_version: bool = True, verbose: bool = True) -> Any:
            opened.count += 1
            return super().setup(check_version=check_version, verbose=verbose)

        def _open(self, path: Path | None, *, create: bool) -> Any:
            if path is None:
                path, create = folder / f"{opened.count}.sqlite", True
            queue = super()._open(path, create=create)
            with queue.engine.begin() as conn:
                tables.metadata.create_all(conn)  # a master of litebot's has these, too
            return queue

    connector.DBConnector = Counted
    data.DataConnector = Data
    botmaster.BotMaster = BotMaster


def main(store: str, source: Path, server: str, target: Path, names: list[str]) -> None:
    started_at = time.monotonic()
    import buildbot.test

    if not Path(buildbot.test.__file__).is_relative_to(source):
        raise RuntimeError(f"{source} is not first on PYTHONPATH: got {buildbot.test.__file__}")
    for message in LATER_WARNINGS:
        warnings.filterwarnings("ignore", message, DeprecationWarning)
    os.environ["TRIAL_PYTHONPATH"] = str(source)  # tells Buildbot that it is being tested
    with tempfile.TemporaryDirectory(prefix="databases-") as folder:
        opened, databases = use_parts(store, server, Path(folder))
        suite = runner.TestLoader().loadByNames(names, recurse=True)
        # Else a full collection walks through all of the suite, for seconds on a busy machine:
        # longer than some tests sleep to let a step start.
        gc.freeze()
        make_recorder: Any = Recorder
        recorder: Any = runner.TrialRunner(make_recorder).run(suite)
    found = {
        "databases": opened.count,
        "on_server": databases.made if databases else 0,
        "seconds": time.monotonic() - started_at,
        "results": recorder.results,
    }
    target.write_text(json.dumps(found, indent=1, sort_keys=True), encoding="utf-8")


if __name__ == "__main__":
    side, tests, beside, outcomes, *chosen = sys.argv[1:]
    main(side, Path(tests).resolve(), beside, Path(outcomes).resolve(), chosen)
