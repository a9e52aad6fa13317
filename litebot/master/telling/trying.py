"""Sends a test message to those whom a project tells, and says what they answer."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from buildbot.process.results import SUCCESS

from litebot.errors import LitebotError
from litebot.master.delivery.outbox import ReportAttempt
from litebot.master.delivery.outbox import current_attempt
from litebot.master.runtime.error_log import logged_errors
from litebot.master.telling.begin import CELL
from litebot.master.telling.reporters import reporter_name
from litebot.master.telling.statuses import CommitStatus
from litebot.projects.definition import Project
from litebot.store.sql import Sql


async def try_lines(master: Any, project: Project, lines: Sequence[str]) -> list[dict[str, Any]]:
    """Send a test message as each line says; return for each what was answered.

    A status is set under a name of its own, for the last revision that was built.
    """
    builderid = await master.data.updates.findBuilderId(project.name)
    revision = await master.db.do_sql(_thd_last_revision, builderid)
    url = f"{master.config.buildbotURL}#/builders/{builderid}"
    return [await _try(master, project, line, revision, url) for line in lines]


async def _try(
    master: Any, project: Project, line: str, revision: str | None, url: str
) -> dict[str, Any]:
    reporter = master.service_manager.namedServices.get(reporter_name(project.name, line))
    if reporter is None:
        raise LitebotError(f"{line} is not in use yet", "litebot reconfig")
    if isinstance(reporter, CommitStatus) and revision is None:
        error = "no revision was built yet, and a status is one of a revision"
        return {"tell": line, "sent": False, "error": error, "answers": []}
    report = _report(reporter, project, revision or "", url)
    with logged_errors() as errors:
        attempt = ReportAttempt(errors)
        current_attempt.set(attempt)
        try:
            await reporter.sendMessage([report])
        except Exception as raised:
            errors.append(raised)
        finally:
            current_attempt.set(None)
    failure = attempt.error
    answers = [asdict(answer) for answer in attempt.answers]
    return {"tell": line, "sent": failure is None, "error": failure, "answers": answers}


def _report(reporter: Any, project: Project, revision: str, url: str) -> dict[str, Any]:
    text = f"{project.name}: a test message of litebot, about no build"
    stamp = {"branch": project.branch, "revision": revision, "repository": project.url}
    build = {
        "buildid": 0,
        "number": 0,
        "complete": True,
        "results": SUCCESS,
        "state_string": text,
        "url": url,
        "properties": {CELL: ("test", "litebot")},
        "buildset": {"sourcestamps": [stamp]},
    }
    return {
        "body": reporter.sample(text),
        "subject": text,
        "type": "plain",
        "results": SUCCESS,
        "builds": [build],
        "users": [],
        "patches": [],
        "logs": [],
    }


def _thd_last_revision(sql: Sql, builderid: int) -> str | None:
    query = (
        "SELECT p.value FROM builds b"
        " JOIN build_properties p ON p.buildid = b.id AND p.name = 'got_revision'"
        " WHERE b.builderid = ? ORDER BY b.id DESC LIMIT 1"
    )
    row = sql.row(query, builderid)
    return None if row is None else str(json.loads(row[0]))
