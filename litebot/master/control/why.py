"""Explains a change: the buildset that each scheduler made for it, or why it made none."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from buildbot.changes.changes import Change
from buildbot.changes.filter import ChangeFilter
from buildbot.db.model import Model
from buildbot.schedulers.timed import Timed

from litebot.errors import LitebotError
from litebot.master.db import tables


@dataclass(frozen=True)
class Outcome:
    """What one scheduler did with the change; `buildsetid` is None if it was not built."""

    scheduler: str
    what: str
    buildsetid: int | None = None


@dataclass(frozen=True)
class _Facts:
    """What the database has about a change and a scheduler."""

    buildsetid: int | None
    is_waiting: bool
    is_delivered: bool


async def why(master: Any, id_or_revision: str) -> tuple[int, list[Outcome]]:
    """Find a change and return its id, and what each scheduler did with it.

    `id_or_revision` may be the beginning of a revision; the newest change that matches counts.
    Raises LitebotError if there is none.
    """
    changeid = await master.db.pool.do(_find, id_or_revision)
    if changeid is None:
        text = f"there is no change with the id or the revision {id_or_revision!r}"
        problems = "; ".join(map(str, master.source_problems.all()))
        raise LitebotError(f"{text}; {problems}" if problems else text)
    change = await Change.fromChdict(master, await master.db.changes.getChange(changeid))
    outcomes = []
    for scheduler in sorted(master.allSchedulers(), key=lambda s: s.name):
        facts = await master.db.pool.do(_facts, scheduler.serviceid, changeid)
        outcomes.append(_outcome(scheduler, change, facts))
    return changeid, outcomes


def _find(conn: sa.engine.Connection, id_or_revision: str) -> int | None:
    changes = Model.changes
    if id_or_revision.isdigit():
        query = sa.select(changes.c.changeid).where(changes.c.changeid == int(id_or_revision))
        if (found := conn.execute(query).scalar()) is not None:
            return int(found)
    beginning = changes.c.revision.startswith(id_or_revision, autoescape=True)
    return conn.execute(sa.select(sa.func.max(changes.c.changeid)).where(beginning)).scalar()


def _facts(conn: sa.engine.Connection, schedulerid: int, changeid: int) -> _Facts:
    built, waiting, delivered = tables.built, Model.scheduler_changes, tables.scheduler_positions
    bsid = conn.execute(
        sa.select(sa.func.max(built.c.bsid)).where(
            built.c.schedulerid == schedulerid, built.c.changeid == changeid
        )
    ).scalar()
    row = sa.select(waiting.c.changeid).where(
        waiting.c.schedulerid == schedulerid, waiting.c.changeid == changeid
    )
    last = conn.execute(
        sa.select(delivered.c.changeid).where(delivered.c.schedulerid == schedulerid)
    ).scalar()
    is_waiting = conn.execute(row).first() is not None
    return _Facts(bsid, is_waiting, last is None or changeid <= last)


def _outcome(scheduler: Any, change: Change, facts: _Facts) -> Outcome:
    owner = scheduler.master.projects.scheduler_of(vars(change))
    if owner not in (None, scheduler.name):
        return Outcome(scheduler.name, f"ignored: it is of project {change.project}")
    if facts.buildsetid is not None:
        return Outcome(scheduler.name, f"built in buildset {facts.buildsetid}", facts.buildsetid)
    return Outcome(scheduler.name, _why_not(scheduler, change, facts))


def _why_not(scheduler: Any, change: Change, facts: _Facts) -> str:
    if facts.is_waiting:
        is_timed = isinstance(scheduler, Timed)
        awaited = "the scheduler's next run" if is_timed else "its tree-stable timer"
        return f"waiting for {awaited}"
    if not getattr(scheduler, "enabled", True):
        return "ignored: the scheduler is disabled"
    if getattr(scheduler, "_change_consumer", None) is None:
        return "ignored: this scheduler acts on no changes"
    if not facts.is_delivered:
        return "not delivered to the scheduler yet"
    reasons = list(_reasons_to_ignore(scheduler, change))
    if reasons:
        return "ignored: " + "; ".join(reasons)
    return "not built: it is older than the scheduler, or came while the scheduler was disabled"


def _reasons_to_ignore(scheduler: Any, change: Change) -> Iterator[str]:
    """Yield why the scheduler, as it is configured now, does not build the change."""
    change_filter = getattr(scheduler, "change_filter", None)
    if isinstance(change_filter, ChangeFilter) and not change_filter.filter_change(change):
        yield from _mismatches(change_filter, change)
    if change.codebase not in scheduler.codebases:
        yield f"codebase {change.codebase!r} is not one of the scheduler's"
    branch = getattr(scheduler, "branch", Timed.NoBranch)
    if isinstance(scheduler, Timed) and branch not in (Timed.NoBranch, change.branch):
        yield f"branch {change.branch!r} is not {branch!r}"
    is_important = getattr(scheduler, "fileIsImportant", None)
    if is_important is not None and not is_important(change):
        yield "fileIsImportant does not accept it"


def _mismatches(change_filter: ChangeFilter, change: Change) -> Iterator[str]:
    named = {
        "filter_fn": change,
        **{f"{name}_fn": getattr(change, name) for name in ("project", "codebase", "repository")},
        **{f"{name}_fn": getattr(change, name) for name in ("category", "branch")},
    }
    for name, value in named.items():
        accepts = getattr(change_filter, name)
        if accepts is not None and not accepts(value):
            yield f"the filter's {name} does not accept it"
    for part in change_filter.filters:
        value = getattr(change, part.prop, "")
        if not part.is_matched(value):
            yield f"filter on {part.prop}: {part.describe()}, but it is {value!r}"
    for part in change_filter.property_filters:
        value = change.properties.getProperty(part.prop, "")
        if not part.is_matched(value):
            yield f"filter on the property {part.prop}: {part.describe()}, but it is {value!r}"
