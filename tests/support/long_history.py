"""A long history in the file of a master that has never run."""

from __future__ import annotations

import zlib
from pathlib import Path

import apsw

BUILDS = 100_000
CHANGES = 20_000
LOG_CHUNKS = 1700  # of 64 KiB

LINES = [f"oline {n} says 'hello' and \\\\ as \N{SNOWMAN} do, and more" for n in range(1000)]
CHUNK = "\n".join(LINES)
LONG_LINE = "o" + "x" * 60_000_000

NUMBERS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT %d)"
HISTORY = f"""
BEGIN;
INSERT INTO masters VALUES (17, 'old', 'x', 0, 0);
INSERT INTO workers (id, name, info) VALUES (17, 'old', '{{}}');
{NUMBERS % 20} INSERT INTO builders (id, name, name_hash) SELECT 100 + i, 'old' || i, i FROM n;
{NUMBERS % CHANGES} INSERT INTO sourcestamps
    (id, ss_hash, branch, revision, repository, codebase, project, created_at)
    SELECT i, i, 'main', 'r' || i, 'https://git.example.org', '', 'p', i FROM n;
{NUMBERS % CHANGES} INSERT INTO changes (changeid, author, comments, branch, revision,
        when_timestamp, repository, codebase, project, sourcestampid)
    SELECT i, 'somebody', 'Change ' || i, 'main', 'r' || i, i, '', '', 'p', i FROM n;
{NUMBERS % CHANGES} INSERT INTO change_files (changeid, filename) SELECT i, 'f' || i FROM n;
{NUMBERS % CHANGES} INSERT INTO buildsets (id, reason, submitted_at, complete, results)
    SELECT i, 'because', i, 1, 0 FROM n;
{NUMBERS % CHANGES} INSERT INTO buildset_sourcestamps (buildsetid, sourcestampid)
    SELECT i, i FROM n;
{NUMBERS % CHANGES} INSERT INTO buildset_properties (buildsetid, property_name, property_value)
    SELECT i, 'scheduler', '["s", "Scheduler"]' FROM n;
{NUMBERS % CHANGES} INSERT INTO buildrequests
    (id, buildsetid, builderid, priority, complete, results, submitted_at, waited_for)
    SELECT i, i, 101 + i % 20, i % 7, 1, 0, i, 0 FROM n;
{NUMBERS % BUILDS} INSERT INTO builds (id, number, builderid, buildrequestid, workerid, masterid,
        started_at, complete_at, locks_duration_s, state_string, results)
    SELECT i, i, 101 + i % 20, 1 + i % {CHANGES}, 17, 17, i,
        i + i * 7919 % 1000, 0, 'build successful ' || (i % 11), i % 3
    FROM n;
{NUMBERS % BUILDS} INSERT INTO build_properties (buildid, name, value, source)
    SELECT i, 'revision', '"' || i || '"', 'Build' FROM n;
INSERT INTO steps VALUES (1, 0, 'shell', 1, 1, 1, 1, 'finished', 0, '[]', 0);
INSERT INTO logs VALUES (1, 'stdio', 'stdio', 1, 1, {LOG_CHUNKS * 1000}, 's');
INSERT INTO logs VALUES (2, 'long', 'long', 1, 1, 3, 's');
"""


def load_history(path: Path) -> None:
    """Write builds, changes and two logs, a long one and one with a long line."""
    db = apsw.Connection(str(path))
    db.pragma("synchronous", "OFF")
    db.execute(HISTORY)
    db.executemany(
        "INSERT INTO logchunks VALUES (1, ?, ?, ?, 0)",
        [(n * 1000, n * 1000 + 999, CHUNK.encode()) for n in range(LOG_CHUNKS)],
    )
    chunks = [(0, b"obefore", 0), (1, zlib.compress(LONG_LINE.encode(), 9), 1), (2, b"oafter", 0)]
    db.executemany(
        "INSERT INTO logchunks VALUES (2, ?, ?, ?, ?)", [(n, n, *chunk) for n, *chunk in chunks]
    )
    db.execute("COMMIT")
    db.close()
