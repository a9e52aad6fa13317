"""Steps: an update writes a row and reads it back in one transaction, for the event.

Source: buildbot/db/steps.py and buildbot/data/steps.py, whose names and models these keep.
"""

from __future__ import annotations

import json
from typing import Any

from buildbot.db import steps
from buildbot.db.model import Model
from twisted.internet import defer
from twisted.python import log

from litebot.master.db.components.links import REMEDY
from litebot.master.db.components.links import may_link
from litebot.master.db.components.values import epoch2datetime
from litebot.master.db.components.values import fit_text
from litebot.store.sql import Row
from litebot.store.sql import Sql

COLUMNS = (
    "id, number, name, buildid, started_at, locks_acquired_at, complete_at, state_string, results,"
    " urls_json, hidden"
)
NAME_LENGTH = 50


def model_of(row: Row) -> steps.StepModel:
    """Return the model of a row of COLUMNS."""
    id, number, name, buildid, started, locked, complete, state, results, urls, hidden = row
    listed = [] if urls == "[]" else json.loads(urls)
    return steps.StepModel(
        id=id,
        number=number,
        name=name,
        buildid=buildid,
        started_at=epoch2datetime(started),
        locks_acquired_at=epoch2datetime(locked),
        complete_at=epoch2datetime(complete),
        state_string=state,
        results=results,
        urls=[steps.UrlModel(url["name"], url["url"]) for url in listed if may_link(url["url"])],
        hidden=bool(hidden),
    )


class StepsConnectorComponent(steps.StepsConnectorComponent):
    """Buildbot's, in plain SQL; a method that changes a step returns its model."""

    def getStep(
        self,
        stepid: int | None = None,
        buildid: int | None = None,
        number: int | None = None,
        name: str | None = None,
    ) -> Any:
        """Return a step by its id, or by its build and its number or name; or None."""
        if stepid is not None:
            return self.db.do_sql(_thd_step, "id = ?", stepid)
        if buildid is None:
            raise RuntimeError("must supply either stepid or buildid")
        if number is not None:
            return self.db.do_sql(_thd_step, "buildid = ? AND number = ?", buildid, number)
        if name is not None:
            return self.db.do_sql(_thd_step, "buildid = ? AND name = ?", buildid, name)
        raise RuntimeError("must supply either number or name")

    def getSteps(self, buildid: int) -> Any:
        """Return the steps of a build in their order."""

        def thd(sql: Sql) -> list[steps.StepModel]:
            query = f"SELECT {COLUMNS} FROM steps WHERE buildid = ? ORDER BY number"
            return [model_of(row) for row in sql.rows(query, buildid)]

        return self.db.do_sql(thd)

    def add(self, buildid: int, name: str, state_string: str) -> Any:
        """Add a step under a name that no other step of the build has; return its model."""

        def thd(sql: Sql) -> steps.StepModel:
            # Only the master that runs the build adds steps to it, so no other can add one now.
            rows = sql.rows("SELECT number, name FROM steps WHERE buildid = ?", buildid)
            number = max((row[0] for row in rows), default=-1) + 1
            wanted = fit_text(self.db, Model.steps.c.name, name)
            free = _free_name(wanted, {row[1] for row in rows})
            row = {"number": number, "name": free, "buildid": buildid, "state_string": state_string}
            id = sql.insert("steps", **row, urls_json="[]", hidden=0)
            return model_of(
                (id, number, free, buildid, None, None, None, state_string, None, "[]", 0)
            )

        return self.db.do_sql(thd)

    @defer.inlineCallbacks
    def addStep(self, buildid: int, name: str, state_string: str) -> Any:
        """Do as add; return the step's id, number and name."""
        step = yield self.add(buildid, name, state_string)
        return step.id, step.number, step.name

    def startStep(self, stepid: int, started_at: int, locks_acquired: bool) -> Any:
        """Record when a step started, in seconds since the epoch."""
        if locks_acquired:
            return self._update(stepid, started_at=started_at, locks_acquired_at=started_at)
        return self._update(stepid, started_at=started_at)

    def set_step_locks_acquired_at(self, stepid: int, locks_acquired_at: int) -> Any:
        """Record when a step got its locks, in seconds since the epoch."""
        return self._update(stepid, locks_acquired_at=locks_acquired_at)

    def setStepStateString(self, stepid: int, state_string: str) -> Any:
        """Set the text that says what a step is doing."""
        text = fit_text(self.db, Model.steps.c.state_string, state_string)
        return self._update(stepid, state_string=text)

    def addURL(self, stepid: int, name: str, url: str, _racehook: Any = None) -> Any:
        """Do as Buildbot does, but leave out, with a line in the log, what may not be a link."""
        if may_link(url):
            return super().addURL(stepid, name, url, _racehook)
        log.msg(f"litebot: step {stepid}: left out the link {name!r} to {url!r:.200}; {REMEDY}")
        return defer.succeed(None)

    def finishStep(self, stepid: int, results: int, hidden: bool) -> Any:
        """Mark a step as finished, now."""
        now = int(self.master.reactor.seconds())
        return self._update(stepid, complete_at=now, results=results, hidden=1 if hidden else 0)

    def _update(self, stepid: int, **values: Any) -> Any:
        def thd(sql: Sql) -> steps.StepModel | None:
            sql.update("steps", stepid, **values)
            return _thd_step(sql, "id = ?", stepid)

        return self.db.do_sql(thd)


def _thd_step(sql: Sql, where: str, *parameters: Any) -> steps.StepModel | None:
    row = sql.row(f"SELECT {COLUMNS} FROM steps WHERE {where}", *parameters)
    return None if row is None else model_of(row)


def _free_name(name: str, taken: set[str]) -> str:
    free, number = name, 0
    while free in taken:
        number += 1
        suffix = f"_{number}"
        free = name[: NAME_LENGTH - len(suffix)] + suffix
    return free
