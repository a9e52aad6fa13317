"""Logs: what is appended within a moment is stored together, and reads as it was written."""

from __future__ import annotations

import contextvars
import random
from collections.abc import Callable
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import apsw
import pytest
from hypothesis import HealthCheck
from hypothesis import Phase
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st

from litebot.errors import StoreFailed
from litebot.master.db.components import logs as hot_logs
from litebot.master.db.components.logs import BACKLOG_BYTES
from litebot.master.db.components.logs import COMPRESS_HERE_BYTES
from litebot.master.db.components.logs import GATHER_BYTES
from litebot.master.db.components.logs import GATHER_S
from litebot.master.db.read_pool import ReadSnapshot
from litebot.master.db.read_pool import read_snapshot
from support.faulty_vfs import FaultyDisk
from support.faulty_vfs import faulty_disk
from support.stand_in import Log
from support.worlds import Commits
from support.worlds import Pair
from support.worlds import Raised
from support.worlds import World
from support.worlds import litebots
from support.worlds import outcome

MakePair = Callable[[], AbstractContextManager[Pair]]

CHUNK_BYTES, CHUNK_LINES = 65536, 1000

quick = settings(
    max_examples=10,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],  # shrinking takes minutes
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)

# A \r is a line's end to what Buildbot reads a chunk with, but not to what counted the lines.
plain = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\n"), max_size=40)
words = plain | st.sampled_from(["", "o" * 80, "ü€𝄞" * 9])
long_lines = st.builds(
    lambda word, size: (word or "x") * (size // len((word or "x").encode()) + 1),
    words,
    # Buildbot cuts longer ones.
    st.sampled_from([100, 5000, CHUNK_BYTES // 2, CHUNK_BYTES - 200]),
)
lines = st.lists(words, min_size=1, max_size=30) | st.lists(long_lines, min_size=1, max_size=4)
many_lines = st.builds(lambda word, count: [word] * count, words, st.integers(900, 2500))
pieces = (lines | many_lines).map(lambda lines: "".join(f"{line}\n" for line in lines))


def open_log(world: World, name: str = "stdio") -> int:
    """Start a log as a step does; its id."""
    logid: int = world.call(world.updates.addLog, 1, name, "s")
    world.events.clear()
    return logid


def append(world: World, logid: int, content: str) -> Any:
    return world.call(world.updates.appendLog, logid, content)


def chunks(world: World, logid: int = 1) -> list[Any]:
    """(first line, last line) of the chunks of a log that are in the file."""
    return [(first, last) for of, first, last, *_ in world.rows("logchunks") if of == logid]


def text(world: World, logid: int = 1) -> str:
    return str(world.call(world.db.logs.getLogLines, logid, 0, 2**31))


def appended(world: World) -> list[int]:
    """num_lines of the append events so far."""
    return [m["num_lines"] for key, m in world.events if key == ("logs", "1", "append")]


def test_a_long_line_that_cannot_be_compressed_is_kept(
    pairs: MakePair, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = random.Random(1).randbytes(5 * CHUNK_BYTES).hex() + "\n"
    with pairs() as pair:
        world = pair.litebots
        world.master.config.logCompressionMethod = "raw"
        logid = open_log(world)
        append(world, logid, f"before\n{line}after\n")
        world.call(world.db.logs.finishLog, logid)
        assert text(world) == f"before\n{line}after\n"
        world.call(world.db.logs.compressLog, logid, True)
        assert text(world) == f"before\n{line}after\n"
        monkeypatch.setattr(hot_logs, "LONGEST_LINE_BYTES", 2 * CHUNK_BYTES)
        logid = open_log(world, "longer")
        append(world, logid, "x" * (2 * CHUNK_BYTES + 7) + "\n")
        world.call(world.db.logs.finishLog, logid)
        assert text(world, logid)[-60:].endswith("xx [7 bytes of this line are not kept]\n")


# as Buildbot's


@quick
@given(st.lists(pieces, min_size=1, max_size=4), st.sampled_from(["raw", "gz", "bz2"]), st.data())
def test_what_is_read_is_what_was_appended(
    pairs: MakePair, appends: list[str], compression: str, data: st.DataObject
) -> None:
    with pairs() as pair:
        for world in pair.worlds:
            world.master.config.logCompressionMethod = compression
        logid = pair.same("logs.addLog", 1, "stdio", "stdio", "s")
        for content in appends:
            pair.same("logs.appendLog", logid, content)
        total = sum(content.count("\n") for content in appends)
        assert pair.same("logs.getLog", logid).num_lines == total
        pair.same_rows("logs")
        for _ in range(3):
            first = data.draw(st.integers(0, total + 1), "first")
            last = data.draw(st.integers(0, total + 1), "last")
            pair.same("logs.getLogLines", logid, first, last)
        for until in (None, total // 2):
            read = [
                world.read_all(world.db.logs.iter_log_lines(logid, total // 3, until))
                for world in pair.worlds
            ]
            assert read[0] == read[1]
        limits(pair.litebots)
        pair.same("logs.finishLog", logid)
        whole = text(pair.litebots)
        pair.litebots.call(pair.litebots.db.logs.compressLog, logid)
        assert text(pair.litebots) == whole


def limits(world: World) -> None:
    """No stored chunk is larger than Buildbot allows, and none leaves a gap."""
    next_line = 0
    for _, first, last, content, _ in sorted(world.rows("logchunks"), key=lambda row: row[1]):
        assert len(content) <= CHUNK_BYTES
        assert first == next_line
        assert last - first < CHUNK_LINES
        next_line = last + 1


@quick
@given(st.lists(pieces, min_size=1, max_size=5), st.lists(st.booleans(), min_size=5, max_size=5))
def test_what_is_gathered_reads_the_same(
    pairs: MakePair, appends: list[str], pauses: list[bool]
) -> None:
    """Whatever the pauses: the ranges that appendLog returns, the text, the number of lines."""
    with pairs() as pair:
        pair.update("addLog", 1, "stdio", "s")
        for content, pause in zip(appends, pauses, strict=False):
            ours, theirs = (append(world, 1, content) for world in pair.worlds)
            assert ours == theirs
            if pause:
                pair.advance(GATHER_S)
        pair.update("finishLog", 1)
        pair.same_rows("logs")
        pair.same("logs.getLogLines", 1, 0, 10**6)
        limits(pair.litebots)


def test_a_carriage_return_is_no_end_of_a_line(world: World) -> None:
    logid = open_log(world)
    append(world, logid, "o10%\r20%\rdone\no\r\n")
    assert world.read_all(world.db.logs.iter_log_lines(logid)) == ["o10%\r20%\rdone\n", "o\r\n"]
    assert world.call(world.db.logs.getLogLines, logid, 1, 1) == "o\r\n"


def test_a_chunk_has_1000_lines_at_most(world: World) -> None:
    logid = open_log(world)
    append(world, logid, "\n" * 2500)
    world.reactor.settle()
    assert chunks(world) == [(0, 999), (1000, 1999), (2000, 2499)]


def test_a_line_that_is_too_long_is_cut_between_characters(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hot_logs, "LONGEST_LINE_BYTES", CHUNK_BYTES)
    world.master.config.logCompressionMethod = "raw"
    logid = open_log(world)
    append(world, logid, "a\n" + "€" * CHUNK_BYTES + "\nb\n")
    cut = "€" * (CHUNK_BYTES // 3)
    lost = 3 * CHUNK_BYTES - len(cut.encode())
    assert text(world) == f"a\n{cut} [{lost} bytes of this line are not kept]\nb\n"


def test_a_log_by_its_slug(pairs: MakePair, logged: Log) -> None:
    with pairs() as pair:
        pair.same("logs.addLog", 1, "a b", "a_b", "t")
        assert pair.same("logs.addLog", 1, "a b", "a_b", "t") == Raised("LogSlugExistsError")
        pair.same("logs.addLog", 2, "a b", "a_b", "h")
        assert pair.same("logs.addLog", 1, "x", "x", "q") == Raised("AssertionError")
        pair.same("logs.getLogBySlug", 2, "a_b")
        pair.same("logs.getLogBySlug", 3, "a_b")
        for stepid in (None, 1, 3):
            pair.same("logs.getLogs", stepid)
        for _ in range(12):
            pair.update("addLog", 1, "é" * 60, "s")
        pair.same_rows("logs")


def test_a_log_that_is_not_there(pairs: MakePair) -> None:
    with pairs() as pair:
        for method, *arguments in (
            ("getLog",),
            ("appendLog", "a\n"),
            ("finishLog",),
            ("getLogLines", 0, 9),
        ):
            assert not pair.same(f"logs.{method}", 99, *arguments)
        pair.same_rows("logs", "logchunks")


# gathering


def test_appends_at_once_become_one_chunk_and_one_event(world: World) -> None:
    logid = open_log(world)
    ranges = [append(world, logid, f"o{n}\n" * 2) for n in range(5)]
    assert ranges == [(0, 1), (2, 3), (4, 5), (6, 7), (8, 9)]
    assert chunks(world) == []
    assert appended(world) == []
    world.reactor.advance(GATHER_S)
    world.reactor.settle()
    assert chunks(world) == [(0, 9)]
    assert appended(world) == [10]


def test_lines_wait_for_50_ms_at_most(world: World) -> None:
    logid = open_log(world)
    append(world, logid, "a\n")
    world.reactor.advance(GATHER_S * 0.9)
    append(world, logid, "b\n")
    world.reactor.turn()
    assert chunks(world) == []
    world.reactor.advance(GATHER_S * 0.11)
    world.reactor.turn()
    assert chunks(world) == [(0, 1)]


def test_64_kib_don_t_wait(world: World) -> None:
    logid = open_log(world)
    append(world, logid, "x" * (GATHER_BYTES - 2) + "\n")
    world.reactor.turn()
    assert chunks(world) == []
    append(world, logid, "\n")
    world.reactor.run_now(lambda: appended(world) == [2])
    assert chunks(world) == [(0, 1)]
    world.reactor.settle()
    assert appended(world) == [2]


def test_logs_do_not_wait_for_each_other(world: World) -> None:
    first, second = open_log(world), open_log(world, "other")
    append(world, first, "a\n")
    append(world, second, "b\n")
    world.reactor.advance(GATHER_S)
    world.reactor.turn()
    assert (chunks(world, first), chunks(world, second)) == ([(0, 0)], [(0, 0)])
    assert (text(world, first), text(world, second)) == ("a\n", "b\n")


def begin_writing(world: World, logid: int) -> str:
    """Have lines on their way, in the thread that compresses them; what they are."""
    big = "b" * COMPRESS_HERE_BYTES + "\n"
    append(world, logid, big)
    world.reactor.advance(GATHER_S)
    assert chunks(world) == []
    return big


def test_the_order_is_kept_while_lines_are_on_their_way(world: World) -> None:
    logid = open_log(world)
    big = begin_writing(world, logid)
    append(world, logid, "after\n")
    world.reactor.settle()
    assert text(world) == f"{big}after\n"
    assert chunks(world) == [(0, 0), (1, 1)]
    assert appended(world) == [1, 2]


def test_64_kib_more_don_t_wait_either(world: World) -> None:
    logid = open_log(world)
    begin_writing(world, logid)
    append(world, logid, "x" * GATHER_BYTES + "\n")
    for _ in range(20):
        world.reactor.turn()
    assert chunks(world) == [(0, 0), (1, 1)]


@pytest.mark.parametrize("read", ["getLogLines", "iter_log_lines", "getLog", "bySlug", "getLogs"])
@pytest.mark.parametrize("busy", [False, True])
def test_what_was_appended_can_be_read(world: World, read: str, busy: bool) -> None:
    """At once, by all in the process, also while earlier lines are on their way."""
    logid = open_log(world)
    before = begin_writing(world, logid) if busy else ""
    append(world, logid, "just\nnow\n")
    logs = world.db.logs
    if read == "getLogLines":
        assert text(world) == f"{before}just\nnow\n"
    elif read == "iter_log_lines":
        assert "".join(world.read_all(logs.iter_log_lines(logid))) == f"{before}just\nnow\n"
    elif read == "getLog":
        assert world.call(logs.getLog, logid).num_lines == 2 + busy
    elif read == "bySlug":
        assert world.call(logs.getLogBySlug, 1, "stdio").num_lines == 2 + busy
    else:
        assert [log.num_lines for log in world.call(logs.getLogs, 1)] == [2 + busy]


def test_a_read_does_not_wait_for_what_comes_after_it(world: World) -> None:
    logid = open_log(world)
    begin_writing(world, logid)
    reads = [world.ask(world.db.logs.getLog, logid) for _ in range(2)]
    for n in range(50):
        world.ask(world.updates.appendLog, logid, f"{n}\n")
        world.reactor.turn()
    assert [read.called for read in reads] == [True, True]


def test_a_visitor_does_not_have_lines_stored(world: World) -> None:
    logid = open_log(world)
    append(world, logid, "a\n")

    def visit() -> Any:
        read_snapshot.set(ReadSnapshot())
        return world.db.logs.getLog(logid)

    found = contextvars.copy_context().run(lambda: world.call(visit))
    assert found.num_lines == 0
    assert chunks(world) == []


def test_a_log_that_was_never_opened(world: World) -> None:
    """One that another start of the master has left, say."""
    logid = world.call(world.db.logs.addLog, 1, "stdio", "stdio", "s")
    assert append(world, logid, "a\nb\n") == (0, 1)
    assert append(world, logid, "c\n") == (2, 2)
    assert text(world) == "a\nb\nc\n"
    world.call(world.updates.finishLog, logid)
    (row,) = world.rows("logs")
    assert row[4:6] == (1, 3)
    assert [key[-1] for key, _ in world.events if key[0] == "logs"] == [
        "append",
        "append",
        "finished",
    ]


def test_finishing_stores_the_rest_and_the_completion_together(world: World) -> None:
    logid = open_log(world)
    append(world, logid, "a\nb\n")
    commits = Commits(world.db.pool._handle)
    world.call(world.updates.finishLog, logid)
    assert commits.count == 1
    assert chunks(world) == [(0, 1)]
    (row,) = world.rows("logs")
    assert row[4:6] == (1, 2)  # complete, num_lines
    logs = [(key[-1], m["complete"], m["num_lines"]) for key, m in world.events if key[0] == "logs"]
    assert logs == [("append", False, 2), ("finished", True, 2)]
    world.reactor.settle()
    assert commits.count == 1


@pytest.mark.parametrize("late", ["", "late\n"])
def test_finishing_while_lines_are_on_their_way(world: World, late: str) -> None:
    logid = open_log(world)
    big = begin_writing(world, logid)
    if late:
        append(world, logid, late)
    finishing = world.ask(world.updates.finishLog, logid)
    reading = world.ask(world.db.logs.getLogLines, logid, 0, 9)
    world.reactor.run_now(lambda: finishing.called and reading.called)
    assert finishing.error is None
    assert reading.result == text(world) == big + late
    assert not world.db.logs.is_open(logid)


def test_a_read_while_a_log_is_finished(world: World) -> None:
    logid = open_log(world)
    big = "b" * COMPRESS_HERE_BYTES + "\n"
    append(world, logid, big)
    finishing = world.ask(world.updates.finishLog, logid)
    assert text(world) == big
    world.reactor.run_now(lambda: finishing.called)


def test_whoever_is_too_fast_waits(world: World) -> None:
    logid = open_log(world)
    piece = "x" * (GATHER_BYTES - 1) + "\n"
    asked = [world.ask(world.updates.appendLog, logid, piece) for _ in range(20)]
    at_once = [a.called for a in asked].index(False)
    assert at_once * GATHER_BYTES in (BACKLOG_BYTES, BACKLOG_BYTES + GATHER_BYTES)
    world.reactor.settle()
    assert [a.result for a in asked] == [(n, n) for n in range(20)]
    assert text(world) == piece * 20


@pytest.mark.parametrize("busy", [False, True])
def test_stopping_stores_what_waits(template: Path, tmp_path: Path, busy: bool) -> None:
    world = litebots(tmp_path / "ci", template)
    logid = open_log(world)
    if busy:
        begin_writing(world, logid)
    append(world, logid, "last\n")
    world.close()
    assert chunks(world)[-1][1] == int(busy)
    assert world.reactor.timers == []


# when storing fails


@pytest.fixture
def disk() -> Iterator[FaultyDisk]:
    with faulty_disk() as disk:
        yield disk


@pytest.fixture
def on_disk(disk: FaultyDisk, template: Path, tmp_path: Path, logged: Log) -> Iterator[World]:
    """A master whose disk can fail."""
    world = litebots(tmp_path / "ci", template)
    yield world
    disk.heal()
    world.close()
    logged.clear()


def test_a_full_disk_fails_what_comes_after(on_disk: World, disk: FaultyDisk, logged: Log) -> None:
    logid = open_log(on_disk)
    append(on_disk, logid, "kept\n")
    assert text(on_disk, logid) == "kept\n"
    append(on_disk, logid, "lost\n")
    disk.refuse("write", "-wal", apsw.SQLITE_FULL)
    on_disk.reactor.settle()
    assert logged.take() == [StoreFailed]
    with pytest.raises(StoreFailed, match="no space"):
        append(on_disk, logid, "next\n")
    with pytest.raises(StoreFailed, match="no space"):
        on_disk.call(on_disk.updates.finishLog, logid)
    assert appended(on_disk) == [1]


class Wrong(Exception):
    """What no disk does, such as a mistake in a plugin's trigger."""


def refuse_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next chunks are not stored, and those after them could be."""
    append_rows = hot_logs._thd_append

    def refuse(*_: Any) -> None:
        monkeypatch.setattr(hot_logs, "_thd_append", append_rows)
        raise Wrong("refused once")

    monkeypatch.setattr(hot_logs, "_thd_append", refuse)


def test_no_later_line_takes_the_place_of_a_lost_one(
    world: World, logged: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    logid = open_log(world)
    append(world, logid, "kept\n")
    assert text(world) == "kept\n"
    begin = "b" * COMPRESS_HERE_BYTES + "\n"
    append(world, logid, begin)
    world.reactor.advance(GATHER_S)
    append(world, logid, "after\n")
    refuse_once(world, monkeypatch)
    world.reactor.settle()
    assert Wrong in logged.take()
    assert text(world) == "kept\n"
    assert appended(world) == [1]
    with pytest.raises(Wrong):
        append(world, logid, "next\n")
    with pytest.raises(Wrong):
        world.call(world.updates.finishLog, logid)
    assert [row[4] for row in world.rows("logs")] == [0]


def test_finishing_fails_where_the_rest_can_t_be_stored(
    world: World, logged: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    logid = open_log(world)
    append(world, logid, "lost\n")
    refuse_once(world, monkeypatch)
    with pytest.raises(Wrong):
        world.call(world.updates.finishLog, logid)
    assert Wrong in logged.take()
    assert world.rows("logchunks") == []
    assert [row[4] for row in world.rows("logs")] == [0]


@pytest.mark.parametrize("content", ["", "no newline"])
def test_an_append_that_is_wrong_changes_nothing(world: World, content: str) -> None:
    logid = open_log(world)
    assert isinstance(outcome(world, world.updates.appendLog, logid, content), Raised)
    assert append(world, logid, "right\n") == (0, 0)
    assert text(world) == "right\n"


def test_a_lone_surrogate_is_replaced(world: World) -> None:
    logid = open_log(world)
    assert append(world, logid, "lone \ud800, pair \ud83d\ude00\n") == (0, 0)
    assert text(world) == "lone \ufffd, pair \U0001f600\n"
