"""Run tests of Buildbot's own suite and write each one's outcome as JSON.

    python outcomes.py stock|litebot OUTCOMES.json MODULE [MODULE ...]

The archive of Buildbot's source must come first on PYTHONPATH.  With "litebot" the database
connector of Buildbot is replaced by litebot's before any test is loaded, on files rather than in
memory; the tests themselves are untouched.
"""

from __future__ import annotations

import itertools
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from twisted.trial import reporter
from twisted.trial import runner


class Recorder(reporter.TreeReporter):
    """Prints as trial does and keeps test id -> outcome."""

    outcomes: dict[str, str] = {}

    def _keep(self, test: Any, outcome: str) -> None:
        # A test can report twice: a failure, then an error while it is cleaned up.
        if self.outcomes.get(test.id(), "passed") == "passed":
            self.outcomes[test.id()] = outcome

    def addSuccess(self, test: Any) -> None:
        super().addSuccess(test)
        self._keep(test, "passed")

    def addFailure(self, test: Any, fail: Any) -> None:
        super().addFailure(test, fail)
        self._keep(test, "failed")

    def addError(self, test: Any, error: Any) -> None:
        super().addError(test, error)
        self._keep(test, "error")

    def addSkip(self, test: Any, reason: Any) -> None:
        super().addSkip(test, reason)
        self._keep(test, "skipped")

    def addExpectedFailure(self, test: Any, error: Any, todo: Any = None) -> None:
        super().addExpectedFailure(test, error, todo)
        self._keep(test, "todo")


def use_litebot_store() -> None:
    """Put litebot's database where Buildbot's tests find Buildbot's."""
    from buildbot.db import connector

    from litebot.master.database import Database

    numbers = itertools.count(1)
    folder = Path(tempfile.mkdtemp(prefix="conformance-"))

    class OnFile(Database):
        """Tests ask for a database in memory; give them the real thing, a file."""

        durability = "process"

        def _open(self, path: Path | None, *, create: bool) -> Any:
            if path is None:
                return super()._open(folder / f"{next(numbers)}.sqlite", create=True)
            return super()._open(path, create=create)

    connector.DBConnector = OnFile


def main(store: str, target: str, modules: list[str]) -> int:
    # Everything else is imported by the tests: nothing of Buildbot may be loaded before this.
    if store == "litebot":
        use_litebot_store()
    suite = runner.TestLoader().loadByNames(modules, recurse=True)
    os.environ.setdefault("TRIAL_PYTHONPATH", os.environ.get("PYTHONPATH", ""))
    trial = runner.TrialRunner(
        Recorder, workingDirectory=os.path.join(tempfile.mkdtemp(prefix="trial-"), "work")
    )
    trial.run(suite)
    with open(target, "w", encoding="utf-8") as f:
        json.dump(Recorder.outcomes, f, indent=1, sort_keys=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2], sys.argv[3:]))
