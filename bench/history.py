"""Write a history of builds directly into a state file: python -m bench.history FILE BUILDS.

The rows are those that Buildbot would have written for builds that all succeeded.
"""

from __future__ import annotations

import sys
from pathlib import Path

import apsw
from buildbot.util.sautils import hash_columns

from bench.configuration import PROJECT
from bench.configuration import STEPS
from bench.configuration import WORKERS
from bench.configuration import builder_name

BUILDERS = 20
BUILDS_PER_CHANGE = 5
BEGAN_AT = 1_600_000_000
SECONDS_PER_BUILD = 60
CACHE_KIB = 512 * 1024

# The numbers i from 1 to :count.  A build, its request and its buildset have the same number.
NUMBERS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT :count)"
CHANGES = (
    """INSERT INTO sourcestamps
           (id, ss_hash, branch, revision, repository, codebase, project, created_at)
       SELECT i, printf('%040x', i), 'main', printf('%040x', i), 'https://git.example.org/bench',
           '', :project, :began + i * :every * :per_change FROM n""",
    """INSERT INTO changes (changeid, author, comments, branch, revision, when_timestamp,
           repository, codebase, project, sourcestampid, parent_changeids)
       SELECT i, printf('Committer %d <committer@example.org>', i % 50), 'Change number ' || i,
           'main', printf('%040x', i), :began + i * :every * :per_change, 'https://git.example.org/bench',
           '', :project, i, nullif(i - 1, 0) FROM n""",
    """INSERT INTO change_files (changeid, filename)
       SELECT i, printf('src/file%d.py', i % 99) FROM n""",
    """INSERT INTO change_files (changeid, filename)
       SELECT i, printf('tests/test_file%d.py', i % 99) FROM n""",
    "INSERT INTO change_users (changeid, uid) SELECT i, 1 + i % 50 FROM n",
)
BUILDS = (
    """INSERT INTO buildsets (id, reason, submitted_at, complete, complete_at, results)
       SELECT i, 'a change', :began + i * :every, 1, :began + i * :every + 40, 0 FROM n""",
    """INSERT INTO buildset_properties (buildsetid, property_name, property_value)
       SELECT i, 'scheduler', '["changes", "Scheduler"]' FROM n""",
    """INSERT INTO buildset_sourcestamps (id, buildsetid, sourcestampid)
       SELECT i, i, 1 + (i - 1) / :per_change FROM n""",
    """INSERT INTO buildrequests (id, buildsetid, builderid, priority, complete, results,
           submitted_at, complete_at, waited_for)
       SELECT i, i, 1 + (i - 1) % :builders, 0, 1, 0, :began + i * :every,
           :began + i * :every + 40, 0 FROM n""",
    """INSERT INTO buildrequest_claims (brid, masterid, claimed_at)
       SELECT i, :master, :began + i * :every + 1 FROM n""",
    """INSERT INTO builds (id, number, builderid, buildrequestid, workerid, masterid, started_at,
           complete_at, locks_duration_s, state_string, results)
       SELECT i, 1 + (i - 1) / :builders, 1 + (i - 1) % :builders, i, 1 + i % :workers, :master,
           :began + i * :every + 1, :began + i * :every + 40, 0, 'build successful', 0 FROM n""",
    """INSERT INTO build_properties (buildid, name, value, source)
       SELECT i, p.name, p.value, p.source FROM n, (
           SELECT 'buildername' AS name, '"b0"' AS value, 'Builder' AS source
           UNION ALL SELECT 'workername', '"w0"', 'Worker'
           UNION ALL SELECT 'scheduler', '"changes"', 'Scheduler'
           UNION ALL SELECT 'branch', '"main"', 'Build'
           UNION ALL SELECT 'revision', '"0123456789012345678901234567890123456789"', 'Build'
           UNION ALL SELECT 'buildnumber', '1', 'Build') AS p""",
)
STEPS_AND_LOGS = (
    """INSERT INTO steps (id, number, name, buildid, started_at, locks_acquired_at, complete_at,
           state_string, results, urls_json, hidden)
       SELECT i, (i - 1) % :steps, 's' || ((i - 1) % :steps), 1 + (i - 1) / :steps,
           :began + i / :steps * :every + 2, :began + i / :steps * :every + 2,
           :began + i / :steps * :every + 12, 'finished', 0, '[]', 0 FROM n""",
    """INSERT INTO logs (id, name, slug, stepid, complete, num_lines, type)
       SELECT i, 'stdio', 'stdio', i, 1, :lines, 's' FROM n""",
    """INSERT INTO logchunks (logid, first_line, last_line, content, compressed)
       SELECT i, 0, :lines - 1, :text, 0 FROM n""",
)
WAITING = (
    """INSERT INTO buildsets (id, reason, submitted_at, complete)
       SELECT :after + i, 'waiting', :began, 0 FROM n""",
    """INSERT INTO buildset_sourcestamps (buildsetid, sourcestampid)
       SELECT :after + i, :stamp FROM n""",
    """INSERT INTO buildrequests (buildsetid, builderid, priority, complete, results, submitted_at,
           waited_for) SELECT :after + i, :builder, 0, 0, -1, :began, 0 FROM n""",
)
MASTER = 1


def load_builds(path: Path, builds: int) -> None:
    """Write `builds` finished builds of BUILDERS builders, in turn from b0, into a state file.

    There is a change for every BUILDS_PER_CHANGE builds; a build has STEPS steps with a log each.
    No other process may have the file open.  Raises apsw.ConstraintError if it has builds already.
    """
    lines = [f"oline {number} of what a step once said" for number in range(10)]
    values = {
        "began": BEGAN_AT,
        "every": SECONDS_PER_BUILD,
        "per_change": BUILDS_PER_CHANGE,
        "project": PROJECT,
        "builders": BUILDERS,
        "workers": len(WORKERS),
        "steps": STEPS,
        "master": MASTER,
        "lines": len(lines),
        "text": "\n".join(lines).encode(),
    }
    db = _open(path)
    with db:
        db.executemany(
            "INSERT INTO builders (id, name, name_hash) VALUES (?, ?, ?)",
            [(n + 1, builder_name(n), hash_columns(builder_name(n))) for n in range(BUILDERS)],
        )
        db.executemany(
            "INSERT INTO workers (id, name, info) VALUES (?, ?, '{}')",
            [(n + 1, name) for n, name in enumerate(WORKERS)],
        )
        db.executemany(
            "INSERT INTO users (uid, identifier) VALUES (?, ?)",
            [(n + 1, f"Committer {n} <committer@example.org>") for n in range(50)],
        )
        db.execute(
            "INSERT INTO masters (id, name, name_hash, active, last_active) VALUES (?, ?, ?, 0, ?)",
            (MASTER, "an earlier master", hash_columns("an earlier master"), BEGAN_AT),
        )
        for statements, count in (
            (CHANGES, -(-builds // BUILDS_PER_CHANGE)),
            (BUILDS, builds),
            (STEPS_AND_LOGS, builds * STEPS),
        ):
            for statement in statements:
                db.execute(_with_numbers(statement), values | {"count": count})
    _close(db)


def load_waiting(path: Path, requests: int) -> None:
    """Write `requests` waiting build requests of b0 into a state file that nobody else has open."""
    db = _open(path)
    with db:
        name = builder_name(0)
        db.execute(
            "INSERT OR IGNORE INTO builders (name, name_hash) VALUES (?, ?)",
            (name, hash_columns(name)),
        )
        db.execute(
            "INSERT INTO sourcestamps (ss_hash, repository, codebase, project, created_at)"
            " VALUES (?, '', '', ?, ?)",
            (hash_columns(None, None, "", PROJECT, "", None), PROJECT, BEGAN_AT),
        )
        values = {
            "count": requests,
            "began": BEGAN_AT,
            "stamp": db.last_insert_rowid(),
            "builder": db.execute("SELECT id FROM builders WHERE name = ?", (name,)).get,
            "after": db.execute("SELECT coalesce(max(id), 0) FROM buildsets").get,
        }
        for statement in WAITING:
            db.execute(_with_numbers(statement), values)
    _close(db)


def _with_numbers(statement: str) -> str:
    return f"{NUMBERS} {statement}"


def _open(path: Path) -> apsw.Connection:
    db = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE)
    # A WAL of the whole load would be as large as the file, so there is no journal until it closes.
    db.pragma("journal_mode", "DELETE")
    db.pragma("journal_mode", "OFF")
    db.pragma("synchronous", "OFF")
    db.pragma("cache_size", -CACHE_KIB)
    return db


def _close(db: apsw.Connection) -> None:
    db.pragma("journal_mode", "WAL")
    db.close()


if __name__ == "__main__":
    load_builds(Path(sys.argv[1]), int(sys.argv[2]))
