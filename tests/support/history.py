"""Checks in a master's tables all that it has done, and lists the faults."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from collections.abc import Iterator

from support.killed import Victim
from support.master import CANCELLED
from support.master import RETRY
from support.master import SUCCESS


def faults(victim: Victim, acknowledged: Collection[str], wants: dict[str, str]) -> list[str]:
    """Return all that is lost, duplicated, stuck or torn; the master must have no work left.

    `acknowledged` are the revisions whose change hook was answered with 200.  `wants` has the
    branch that each scheduler builds, with % for any; the property `covered` of its buildsets lists
    their changes.
    """
    return [
        *_stored(victim, acknowledged),
        *_handed_over(victim, wants),
        *_downstream(victim),
        *_complete(victim),
        *_built_once(victim),
        *_children(victim),
        *_logs(victim),
        *_reported(victim),
    ]


def _stored(victim: Victim, acknowledged: Collection[str]) -> Iterator[str]:
    stored = Counter(row[0] for row in victim.rows("SELECT revision FROM changes"))
    for revision in acknowledged:
        if stored[revision] != 1:
            yield f"acknowledged change {revision} is stored {stored[revision]} times"


def _handed_over(victim: Victim, wants: dict[str, str]) -> Iterator[str]:
    for name, branch in wants.items():
        covered = Counter(victim.covered(name))
        query = "SELECT changeid FROM changes WHERE branch LIKE :branch"
        for (changeid,) in victim.rows(query, branch=branch):
            if covered[changeid] != 1:
                yield f"change {changeid} is in {covered[changeid]} buildsets of {name}"
    for row in victim.rows("SELECT schedulerid, changeid FROM scheduler_changes"):
        yield f"scheduler and change {row} still wait"


def _downstream(victim: Victim) -> Iterator[str]:
    """Find faults of the scheduler `after`, whose upstream is `single`."""
    schedulers = victim.schedulers()
    query = """
        SELECT s.id, s.results, bs.sourcestampid FROM buildsets s
        JOIN buildset_sourcestamps bs ON bs.buildsetid = s.id
    """
    upstream, downstream = Counter[int](), Counter[int]()
    for bsid, results, ssid in victim.rows(query):
        if schedulers.get(bsid) == "single" and results == SUCCESS:
            upstream[ssid] += 1
        elif schedulers.get(bsid) == "after":
            downstream[ssid] += 1
    for ssid in upstream | downstream:
        if upstream[ssid] != downstream[ssid]:
            yield f"sourcestamp {ssid}: {upstream[ssid]} upstream, {downstream[ssid]} downstream"


def _complete(victim: Victim) -> Iterator[str]:
    for table in ("buildsets", "buildrequests"):
        query = f"SELECT id, results FROM {table} WHERE complete = 0 OR results NOT IN (0, 6)"
        yield from (f"{table}: {row} is not complete" for row in victim.rows(query))
    for table in ("builds", "steps"):
        query = f"SELECT id FROM {table} WHERE results IS NULL OR complete_at IS NULL"
        yield from (f"{table}: {row} has not ended" for row in victim.rows(query))


def _built_once(victim: Victim) -> Iterator[str]:
    final: Counter[int] = Counter()
    for brid, results in victim.rows("SELECT buildrequestid, results FROM builds"):
        final[brid] += results not in (RETRY, CANCELLED)
    for brid, results in victim.rows("SELECT id, results FROM buildrequests"):
        if final[brid] != (results == SUCCESS):
            yield f"request {brid} with results {results} has {final[brid]} builds with a result"


def _children(victim: Victim) -> Iterator[str]:
    """Find builds of a child that began after its parent died.

    A build that was already running on another master may still end.
    """
    query = """
        SELECT r.id FROM buildrequests r JOIN buildsets s ON s.id = r.buildsetid
        JOIN builds parent ON parent.id = s.parent_buildid
        JOIN builds child ON child.buildrequestid = r.id
        WHERE parent.results = 5 AND child.results NOT IN (5, 6)
            AND child.started_at > parent.complete_at
    """
    yield from (f"request {row} went on when its parent had died" for row in victim.rows(query))


def _logs(victim: Victim) -> Iterator[str]:
    end: dict[int, int] = {}
    chunks = "SELECT logid, first_line, last_line FROM logchunks ORDER BY logid, first_line"
    for logid, first, last in victim.rows(chunks):
        if first != end.get(logid, 0):
            yield f"log {logid} goes on at line {first} after line {end.get(logid, 0)}"
        end[logid] = last + 1
    for logid, lines, complete in victim.rows("SELECT id, num_lines, complete FROM logs"):
        if lines != end.get(logid, 0) or not complete:
            yield f"log {logid} has {end.get(logid, 0)} lines, shows {lines}; complete: {complete}"


def _reported(victim: Victim) -> Iterator[str]:
    """Find builds that were not reported, except retried ones, which Buildbot does not report."""
    reported = set(victim.reported.read_text(encoding="utf-8").splitlines())
    query = "SELECT id, results FROM builds WHERE results != 5"
    for buildid, results in victim.rows(query):
        if f"pusher {buildid} {results}" not in reported:
            yield f"build {buildid} with results {results} was not reported"
