"""What `litebot copy-db` would do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa

from litebot.basedir import Basedir
from litebot.files import refuse_unwritable
from litebot.master import postgres
from litebot.master import schema
from litebot.master.copy import count
from litebot.master.copy import refuse_full
from litebot.master.copying import engine_of
from litebot.master.copying import file_of
from litebot.master.copying import itself
from litebot.master.copying import parsed
from litebot.master.copying import refuse_values
from litebot.master.copying import shown
from litebot.master.offline import looked_at
from litebot.settings import load
from litebot.store.connection import look
from litebot.store.dialect import engine_on


@dataclass(frozen=True)
class Plan:
    """How many rows would be copied, and how many of which tables would be left out.

    `target` is as it may be shown, and `made` says whether its file would be.  `size_bytes` is that
    of the state file now; None on a server.
    """

    target: str
    made: bool
    rows: int
    tables: int
    left_out: dict[str, int]
    size_bytes: int | None


def plan(files: Basedir, destination: str, *, skip_orphans: bool) -> Plan:
    """Look at both databases; the master is stopped.  Raises what the command would raise."""
    url = parsed(destination)
    here = sa.engine.make_url(load(files.settings_file).database.url)
    with looked_at(files, "a copy needs it stopped", writes=False) as source:
        schema.require_current(source, shown(here, files.path), files.quoted)
        refuse_values(files, url, skip_orphans=skip_orphans, stopped=True)
        path, its = file_of(url, files.path), file_of(here, files.path)
        same = path == its if path else url == here
        if same:
            raise itself(destination, files)
        made = _inspect(url, path, files)
        found = count(source, skip_orphans=skip_orphans)
    return Plan(
        url.render_as_string(),
        made,
        sum(copied for copied, _ in found.values()),
        len(found),
        {name: left for name, (_, left) in found.items() if left},
        None if its is None else its.stat().st_size,
    )


def _inspect(url: sa.engine.URL, path: Path | None, files: Basedir) -> bool:
    """Raise LitebotError where the target can't be used; whether it would be made."""
    if path is not None and not path.exists():
        refuse_unwritable(path)
        return True
    with _connection(url, path, files) as target:
        refuse_full(target, url.render_as_string())
    return False


@contextmanager
def _connection(
    url: sa.engine.URL, path: Path | None, files: Basedir
) -> Iterator[sa.engine.Connection]:
    if path is not None:
        handle = look(path)
        try:
            with engine_on(handle).connect() as conn:
                yield conn
        finally:
            handle.close()
    elif url.drivername == "postgresql":
        with postgres.told(url), engine_of(url, files.path).connect() as conn:
            yield conn
    else:
        with engine_of(url, files.path).connect() as conn:
            yield conn
