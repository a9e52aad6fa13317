"""What tests of `litebot move-database` share."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import apsw

from litebot.master.admin.move.compare import canonical
from litebot.master.admin.move.side import Side
from litebot.master.admin.move.tables import Moved
from litebot.master.admin.move.tables import all_tables
from litebot.settings import load
from support.master import Master

CONFIGURATION = """
c["builders"] += [
    util.BuilderConfig(
        name="parent",
        workernames=["local"],
        properties={
            "text": "grün ☃ 𝄞 \\\\ ' \\"", "number": 2**40, "float": 0.1, "flag": True,
            "none": None, "list": ["a", 1, None], "dict": {"ä": [1.5, False]},
        },
        factory=util.BuildFactory([
            steps.ShellCommand(command=["printf", "gr\\\\303\\\\274n \\\\342\\\\230\\\\203\\\\n"]),
            steps.Trigger(schedulerNames=["triggered"], waitForFinish=True),
        ]),
    ),
]
c["schedulers"] += [
    schedulers.ForceScheduler(name="force-parent", builderNames=["parent"]),
    schedulers.Triggerable(name="triggered", builderNames=["child"]),
]
"""


def digest(side: Side, table: Moved) -> tuple[int, str]:
    """Return how many rows a table has, and their hash in hex."""
    hashed, count = hashlib.sha256(), 0
    for batch in table.batches(side.rows(table)):
        hashed.update(canonical(batch))
        count += len(batch)
    return count, hashed.hexdigest()


def digests(side: Side) -> dict[str, tuple[int, str]]:
    """Return the count and hash of each table, by its name; closes the side."""
    try:
        return {table.name: digest(side, table) for table in all_tables()}
    finally:
        side.close()


def change(path: Path, *statements: str) -> None:
    db = apsw.Connection(str(path))
    for statement in statements:
        db.execute(statement)
    db.close()


def put_aside(master: Master) -> Path:
    """Return the state file that a move has put aside."""
    (found,) = master.basedir.glob("state.sqlite.moved-*[0-9]")  # without its -wal and -shm
    return found


def url_of(master: Master) -> str:
    return load(master.basedir / "litebot.toml").database.url


TABLES = "SELECT tablename FROM pg_tables WHERE schemaname = 'public'"


END_SESSIONS = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{}'"


def refuses(master: Master, url: str, *expected: str, **kwargs: Any) -> None:
    """Check that a move is refused with these words and that nothing has changed."""
    before = master.contents()
    done = master.run("move-database", url, **kwargs)
    assert done.returncode == 1
    for text in expected:
        assert text in done.stderr
    assert "Traceback" not in done.stderr
    assert master.contents() == before
