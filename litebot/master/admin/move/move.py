"""Moves a basedir's database: copies, compares, and only then lets litebot.toml name the new one.

An interrupted move continues where it stopped.  It needs no list of what has been copied: rows are
copied in order, a few batches per transaction, so the rows in the target are the first of the
source.

Other masters may share the old database.  So before litebot.toml names the new one, the old one
records that it is being moved.  If the move is interrupted after that, the master that is moved can
start on the database that its litebot.toml names.  The others can't start until it has started, or
until the same command has finished the move.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from litebot.basedir import Basedir
from litebot.basedir import OwnerLock
from litebot.errors import LitebotError
from litebot.errors import StoreError
from litebot.master.admin.move import unfinished
from litebot.master.admin.move.compare import Difference
from litebot.master.admin.move.compare import compare_all
from litebot.master.admin.move.copying import Progress
from litebot.master.admin.move.copying import complete
from litebot.master.admin.move.copying import copy_rows
from litebot.master.admin.move.copying import open_side
from litebot.master.admin.move.postgres_side import PostgresSide
from litebot.master.admin.move.side import Side
from litebot.master.admin.move.sqlite_side import SqliteSide
from litebot.master.admin.move.tables import Moved
from litebot.master.admin.move.tables import all_tables
from litebot.master.admin.move.unsuited import refuse_unsuited
from litebot.master.db import move_away
from litebot.master.db import move_into
from litebot.master.db.move_into import Unfinished
from litebot.settings import Database
from litebot.settings import load
from litebot.settings import set_value

NEED = "a move needs it stopped"


@dataclass(frozen=True)
class Copied:
    """What a move has copied; `hash` is over all tables, in hex.

    `resumed` is the number of rows that an earlier, interrupted move had copied.
    """

    rows: int
    tables: int
    hash: str
    resumed: int


@dataclass(frozen=True)
class Report:
    """What a move did; `old` says where the old database is.

    `copied` is None if an interrupted move had done everything but put the old one aside.
    """

    copied: Copied | None
    old: str


def move(files: Basedir, url: str, progress: Progress) -> Report:
    """Move the database of a basedir, whose master is stopped, to an empty one.

    `url` has the form of [database] url in litebot.toml, which names it in the end.  Until then
    litebot.toml and the rows of the old database stay as they are.  Finishes or continues an
    interrupted move to the same url.

    Raises MasterRunning, BasedirError and SettingsError for the basedir, StoreError if the source
    or the target can't be used, and Difference if the copy is not equal.
    """
    files.require()
    files.refuse_owner(NEED)
    files.require_writable()
    settings = load(files.settings_file)
    path = Database(url).sqlite_path(files.path)
    task = Task(files, url if path is None else f"sqlite:///{path}", progress)
    lock = OwnerLock(files)
    try:
        with closing(open_side(settings.database.url, files.path, target=False)) as source:
            source.refuse_users()
            source.require_current(files.quoted)
            with closing(open_side(url, files.path, target=True)) as target:
                if source.identity() == target.identity():
                    return Report(None, _end(target, task))
                refuse_moved(source, task.url, files.master_name)
                copied = _move(source, target, task)
                set_value(files.settings_file, "database.url", url)
                old = source.put_aside(task.url, files.master_name)
                unfinished.forget(target)
        return Report(copied, old)
    finally:
        lock.release()


@dataclass(frozen=True)
class Task:
    """A move: its basedir, the target's url with any path absolute, and the progress callback."""

    files: Basedir
    url: str
    progress: Progress


def refuse_moved(source: Side, url: str, master: str) -> None:
    """Raise StoreError if a source on a server was moved away, or a move into it is unfinished.

    One that is being moved to `url` is not refused: an earlier attempt at this move did not finish.
    `master` is the name of the master that is moved.
    """
    if not isinstance(source, PostgresSide):
        return
    with source.translated_errors(), source.engine.connect() as conn:
        found = move_away.found(conn)
        if found is not None and (found.done or found.url != url):
            raise found.refusal(source.name)
        move_into.refuse(conn, source.name, master)


def begun_by(target: Side, files: Basedir) -> Unfinished:
    """Return the move to `target` that only has to be finished: litebot.toml names it already.

    Raises StoreError if there is none.
    """
    begun = unfinished.recorded(target)
    if begun is None or begun.state != move_into.MOVED:
        raise StoreError(f"{target.name} is the database of {files.path} itself")
    return begun


def _end(target: Side, task: Task) -> str:
    """Finish a move to `target`: put the old database aside, and return where it is.

    If the old one has changed since, it stays as it is.
    """
    begun = begun_by(target, task.files)
    old, path = begun.source, Path(begun.source)
    if not path.is_absolute():
        with closing(PostgresSide(begun.source, task.files.path)) as source:
            if is_as_it_was(source, begun):
                source.put_aside(task.url, task.files.master_name)
    elif path.exists():
        with closing(SqliteSide(path, target=False)) as source:
            if is_as_it_was(source, begun):
                old = source.put_aside(task.url, task.files.master_name)
    unfinished.forget(target)
    return old


def is_as_it_was(source: Side, begun: Unfinished) -> bool:
    """Return whether `source` is still the database that was moved, with nothing written to it."""
    tables = all_tables()
    return {table.name for table in tables} <= source.tables() and (
        source.mark(tables) == begun.mark
    )


def _move(source: Side, target: Side, task: Task) -> Copied:
    """Copy, compare, and record in the target that everything is moved.

    Before that, `source` records it, if it is on a server.  Raises Difference if the copy is not
    equal or the source was written to.
    """
    files, progress = task.files, task.progress
    tables = all_tables()
    source.take_snapshot()
    mark = source.mark(tables)
    new = Unfinished(source.name, mark, files.master_name, task.url)
    found = _usable(target, new, tables)
    if isinstance(source, SqliteSide) and isinstance(target, PostgresSide) and found is None:
        refuse_unsuited(source, tables, files.quoted)
    begun = found or unfinished.begin(target, new, tables)
    resumed = copy_rows(source, target, tables, progress)
    complete(target, tables, begun.later, progress)
    # In a new snapshot: a write to the source after its rows were copied is a difference, too.
    source.take_snapshot()
    try:
        rows, hash_ = compare_all(source, target, tables, progress)
        source.announce(task.url, files.master_name)
        source.refuse_users()  # a master that connected before has not read the record
        source.take_snapshot()
        if source.mark(tables) != mark:
            raise Difference(f"{source.name} was written to while it was moved")
    except LitebotError as error:
        source.take_back()
        if not isinstance(error, Difference):
            raise
        if begun.state != move_into.MOVED:
            unfinished.set_state(target, move_into.DIFFERENT)
        raise Difference(
            f"{error.what}; litebot.toml still names {source.name}",
            "the same command again, which then begins anew",
        ) from None
    unfinished.set_moved(target, new)
    target.sync()
    return Copied(rows, len(tables), hash_, resumed)


def _usable(target: Side, new: Unfinished, tables: list[Moved]) -> Unfinished | None:
    """Return the move that can continue; else empty the target and return None.

    Raises StoreError if the target can't be used.
    """
    begun, to_wipe = judge(target, new)
    if to_wipe:
        target.wipe(tables)
    return begun


def judge(target: Side, new: Unfinished) -> tuple[Unfinished | None, bool]:
    """Return the move that can continue, or None, and whether the target must be emptied first.

    Raises StoreError if the target can't be used.
    """
    begun = unfinished.found(target)
    if begun is None:
        return None, False
    same = begun.source == new.source and begun.mark == new.mark
    if begun.state == move_into.MOVED and not same:
        raise unfinished.holds_data(target, target.tables())
    if begun.state == move_into.MOVED and begun.master != new.master:
        raise begun.refusal(target.name)  # that master may have used it already
    if begun.source != new.source:
        raise StoreError(
            f"{target.name} holds an unfinished {begun.kind} of {begun.source}",
            "finish that one, or name another database, or remove this one",
        )
    if same and begun.state in (move_into.COPYING, move_into.MOVED):
        return begun, False
    return None, True  # it holds only an earlier or incomplete copy of this source
