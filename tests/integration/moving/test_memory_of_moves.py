"""The memory that a move takes."""

from __future__ import annotations

import re
import sys

import apsw
import pytest

from support.commands import run
from support.commands import succeeded
from support.master import Master
from support.postgres import Postgres

A_LOG = (
    "INSERT INTO builders (id, name, name_hash) VALUES (1, 'b', 'b')",
    "INSERT INTO masters (id, name, name_hash, active, last_active) VALUES (1, 'm', 'm', 0, 0)",
    "INSERT INTO buildsets (id, submitted_at, complete) VALUES (1, 0, 1)",
    """INSERT INTO buildrequests (id, buildsetid, builderid, complete, submitted_at)
       VALUES (1, 1, 1, 1, 0)""",
    """INSERT INTO builds (id, number, builderid, buildrequestid, masterid, started_at,
           state_string, locks_duration_s) VALUES (1, 1, 1, 1, 1, 0, '', 0)""",
    """INSERT INTO steps (id, number, name, buildid, state_string, urls_json, hidden)
       VALUES (1, 1, 's', 1, '', '[]', 0)""",
    """INSERT INTO logs (id, name, slug, stepid, complete, num_lines, type)
       VALUES (1, 'l', 'l', 1, 1, 4000, 's')""",
)


# Not ru_maxrss: that begins with the size of the process which forked this one.
MEASURED = """
import re
from litebot.cli.main import litebot
litebot(standalone_mode=False)
with open("/proc/self/status") as status:
    print("peak", re.search(r"VmHWM:\\s+(\\d+) kB", status.read())[1])
"""


NUMBERS = """WITH RECURSIVE numbers(n) AS (
    SELECT 1 UNION ALL SELECT n + 1 FROM numbers LIMIT {count}
)"""


CHUNKS = "INSERT INTO logchunks SELECT 1, n, n, randomblob(64 * 1024), 0 FROM numbers"


PROPERTIES = """
    INSERT INTO build_properties SELECT 1, 'name ' || n, '"value ' || n || '"', 'test' FROM numbers
"""


@pytest.mark.parametrize(
    ("rows", "count"), [(CHUNKS, 4_000), (PROPERTIES, 300_000)], ids=["chunks", "small"]
)
def test_memory_does_not_grow_with_what_is_moved(
    rows: str, count: int, unmoved: Master, postgres: Postgres, database: str
) -> None:
    db = apsw.Connection(str(unmoved.state_file))
    with db:
        for statement in A_LOG:
            db.execute(statement)
        db.execute(NUMBERS.format(count=count) + rows)
    db.close()
    for url in (postgres.url(database), "sqlite:///state.sqlite"):
        arguments = ("move-database", url, unmoved.basedir)
        done = succeeded(run(sys.executable, "-c", MEASURED, *arguments))
        (peak_kib,) = re.findall(r"peak (\d+)", done.stdout)
        assert int(peak_kib) < 200 * 1024
