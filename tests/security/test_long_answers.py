"""Long answers of the REST API: all of them in bounded memory, however slowly they are taken."""

from __future__ import annotations

import gzip
import http.client
import json
import socket
import statistics
import threading
import time
from collections.abc import Callable
from collections.abc import Iterator
from contextlib import ExitStack
from contextlib import contextmanager
from contextlib import suppress
from functools import partial
from typing import Any

import pytest

from litebot.master.limits.reads import MAX_WAITING
from litebot.master.limits.reads import PLACES_PER_ADDRESS
from support.commands import wait_for
from support.fuzz import resident_mb
from support.long_history import BUILDS
from support.long_history import CHANGES
from support.long_history import CHUNK
from support.long_history import LINES
from support.long_history import LOG_CHUNKS
from support.long_history import LONG_LINE
from support.long_history import load_history
from support.master import Master
from support.timing import require_less
from support.visitor import Visitor

MEMORY_MB = 64
READERS, MANY = 10, 30_000
PATIENCE_S = 1.0
ANSWER_S = 2


@pytest.fixture(scope="module")
def history(module_master: Master) -> Iterator[Master]:
    """A master with a long history, which runs."""
    load_history(module_master.state_file)
    module_master.configure("c['collapseRequests'] = False")
    module_master.define_builder("b", "true")
    text = (module_master.basedir / "litebot.toml").read_text(encoding="utf-8")
    assert "answer_seconds = 60" in text
    text = text.replace("answer_seconds = 60", f"answer_seconds = {ANSWER_S}")
    (module_master.basedir / "litebot.toml").write_text(text, encoding="utf-8")
    module_master.start()
    # What the first reads load stays.
    for path in ("builds?limit=1", "logs/1/contents?limit=1", "changes?limit=1"):
        get(module_master, path)
    yield module_master
    module_master.stop()


def get(master: Master, path: str, **headers: str) -> bytes:
    visitor = master.visitor()
    visitor.timeout_s = 60
    reply = visitor.request("GET", f"/api/v2/{path}", **headers)
    assert reply.status == 200, reply.body
    return reply.body


class Watch:
    """Looks at the memory of a master, and how long an honest visitor waits, until it ends."""

    def __init__(self, master: Master) -> None:
        self._master = master
        self._before_mb = resident_mb(master.pid)
        self.most_mb = 0.0
        self.times_s: list[float] = []
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self._thread.start()

    def _look(self) -> None:
        while not self._ends.wait(0.02):
            began_at = time.monotonic()
            with suppress(TimeoutError):
                self._master.rest("builds", limit=20, order="-buildid")
            self.times_s.append(time.monotonic() - began_at)
            self.most_mb = max(self.most_mb, resident_mb(self._master.pid) - self._before_mb)

    def end(self) -> None:
        self._ends.set()
        self._thread.join()
        # Other processes of a busy machine may delay a few.
        *_, most_s, longest_s = (*statistics.quantiles(self.times_s, n=10), max(self.times_s))
        print(f"{self.most_mb:.1f} MB more; GETs took {most_s:.3f} to {longest_s:.3f} s")
        assert self.most_mb < MEMORY_MB
        require_less(most_s, PATIENCE_S)


@contextmanager
def watch(master: Master) -> Iterator[None]:
    watching = Watch(master)
    try:
        yield
    finally:
        watching.end()


@contextmanager
def slow_reader(master: Master, path: str, address: str = "127.0.0.1") -> Iterator[socket.socket]:
    """A visitor who asks for something and takes nothing of it."""
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.bind((address, 0))
        connection.connect(("127.0.0.1", master.ports[0]))
        connection.sendall(f"GET /api/v2/{path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        yield connection


def at_once(*tasks: Callable[[], Any]) -> list[Any]:
    """Run these at the same time, and return their results."""
    results: list[Any] = [None] * len(tasks)

    def run(number: int) -> None:
        results[number] = tasks[number]()

    threads = [threading.Thread(target=run, args=(number,)) for number in range(len(tasks))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def rows_of(body: bytes) -> bytes:
    """Return the rows of an answer, as they are."""
    return body.partition(b": [")[2].rpartition(b'], "meta": ')[0]


def pages_of(master: Master, path: str, limit: int = 200) -> bytes:
    """Return the rows of an answer as those get them who ask for pages."""
    found: list[bytes] = []
    sign = "&" if "?" in path else "?"
    while page := rows_of(get(master, f"{path}{sign}limit={limit}&offset={limit * len(found)}")):
        found.append(page)
    return b",\n".join(found)


# the same as before


@pytest.mark.parametrize(
    "path",
    [
        "builders/103/builds",
        "builders/103/builds?order=-started_at",
        "builds?results=2&builderid__lt=104",
        "builds?complete=true&order=number&builderid=107",
        "builds?builderid__le=102&order=-builderid",
        "builds?builderid=102&order=-complete_at&field=builderid&field=complete_at",
        "builds?state_string__contains=l%207&builderid=104",
        "builds?builderid=105&property=revision&order=-number",
        "builds?builderid=105&order=-complete&order=number",
        "builds?buildid__gt=99000&order=-builderid&order=-buildid",
        "buildrequests?builderid=104&order=-priority",
        "buildrequests?builderid=105&property=*",
        "buildrequests?builderid=106&complete=true&order=submitted_at",
        "changes?changeid__gt=18500",
        "changes?changeid__gt=18500&order=-changeid",
        "buildsets?bsid__gt=18500&order=-submitted_at",
        "sourcestamps?ssid__gt=19300",
    ],
)
def test_the_rows_are_those_of_its_pages(history: Master, path: str) -> None:
    if path.startswith("changes"):
        # Buildbot returns the rows of each page in the reverse order.
        first = get(history, path, Accept="application/json")
        ids = [row["changeid"] for row in json.loads(first)["changes"]]
        assert ids == sorted(ids, reverse="order" not in path)
        assert ids
        return
    body = get(history, path)
    assert rows_of(body) == pages_of(history, path)
    answer = json.loads(body)
    (rows,) = (value for name, value in answer.items() if name != "meta")
    assert answer["meta"]["total"] == len(rows) > 200


@pytest.mark.parametrize(
    ("query", "first", "last"),
    [
        ("", 1, BUILDS),
        ("limit=1000000", 1, BUILDS),
        ("offset=99000", 99_001, BUILDS),
        ("offset=50000&limit=3000", 50_001, 53_000),
        ("order=-buildid&limit=500", BUILDS, BUILDS - 499),
    ],
)
def test_all_that_is_asked_for(history: Master, query: str, first: int, last: int) -> None:
    answer = json.loads(get(history, f"builds?{query}", Accept="application/json"))
    step = 1 if first < last else -1
    assert [row["buildid"] for row in answer["builds"]] == list(range(first, last + step, step))
    assert answer["meta"] == {"total": len(answer["builds"])}


def test_what_python_filters_and_orders(history: Master) -> None:
    path = "sourcestamps?order=-revision&order=ssid&branch=main&field=revision&field=ssid"
    path += "&field=branch&limit=1000&offset=500"
    answer = json.loads(get(history, path))
    expected = sorted((f"r{i}" for i in range(1, CHANGES + 1)), reverse=True)[500:1500]
    assert [row["revision"] for row in answer["sourcestamps"]] == expected
    assert answer["meta"]["total"] == CHANGES


def test_a_compressed_answer(history: Master) -> None:
    body = get(history, "builders/103/builds", Accept_Encoding="gzip")
    assert gzip.decompress(body) == get(history, "builders/103/builds")


def test_a_short_list_has_a_length(history: Master) -> None:
    for path in ("builders", "builds?limit=200", "builds?complete=false", "workers"):
        reply = history.visitor().request("GET", f"/api/v2/{path}")
        assert int(reply.headers["Content-Length"]) == len(reply.body)


def test_a_row_that_goes_meanwhile_is_left_out(history: Master) -> None:
    with slow_reader(history, "builds?builderid__ne=1") as connection:
        answer = http.client.HTTPResponse(connection, method="GET")
        answer.begin()
        begun = answer.read(1000)
        history.execute(f"UPDATE builds SET builderid = 1 WHERE id = {BUILDS}")
        rows = json.loads(begun + answer.read())
    history.execute(f"UPDATE builds SET builderid = 101 WHERE id = {BUILDS}")
    assert [row["buildid"] for row in rows["builds"]] == list(range(1, BUILDS))
    assert rows["meta"]["total"] == BUILDS - 1


@pytest.mark.parametrize("path", ["builds", "logs/1/contents", "logs/1/raw", "logs/1/raw_inline"])
def test_head_reads_little(history: Master, path: str) -> None:
    began_at = time.monotonic()
    reply = history.visitor().request("HEAD", f"/api/v2/{path}")
    assert (reply.status, reply.body) == (200, b"")
    require_less(time.monotonic() - began_at, 0.5)
    assert history.visitor().request("HEAD", "/api/v2/builds/999999999").status == 404


# in bounded memory


def test_many_long_lists_at_once(history: Master) -> None:
    def read() -> int:
        path = f"builds?buildid__gt={BUILDS - MANY}"
        return len(json.loads(get(history, path, Accept="application/json"))["builds"])

    with watch(history):
        sizes = at_once(*[read] * READERS)
    assert sizes == [MANY] * READERS


def test_a_long_log(history: Master) -> None:
    with watch(history):
        answer = json.loads(get(history, "logs/1/contents"))
        raw = get(history, "logs/1/raw")
    [chunk] = answer["logchunks"]
    assert (chunk["logid"], chunk["firstline"]) == (1, 0)
    assert chunk["content"] == f"{CHUNK}\n" * LOG_CHUNKS
    text = "".join(f"{line[1:]}\n" for line in LINES)
    prefix = "Builder: old2\nBuild number: 1\nWorker name: old\n"
    assert raw.decode() == prefix + text * LOG_CHUNKS


def test_lines_of_a_log(history: Master) -> None:
    for query, first, last in [
        ("limit=1500&offset=900", 900, 2400),
        ("limit=50000&offset=1", 1, 50_001),
        (f"offset={LOG_CHUNKS * 1000 - 5000}", LOG_CHUNKS * 1000 - 5000, LOG_CHUNKS * 1000),
    ]:
        answer = json.loads(get(history, f"logs/1/contents?{query}"))
        [chunk] = answer["logchunks"]
        assert chunk["firstline"] == first
        assert chunk["content"] == "".join(f"{LINES[n % 1000]}\n" for n in range(first, last))


def test_one_line_of_many_megabytes(history: Master) -> None:
    with watch(history):
        raw = get(history, "logs/2/raw_inline")
        content = json.loads(get(history, "logs/2/contents"))["logchunks"][0]["content"]
    assert raw.decode().endswith(f"before\n{LONG_LINE[1:]}\nafter\n")
    assert content == f"obefore\n{LONG_LINE}\noafter\n"


def test_those_who_take_nothing(history: Master) -> None:
    before = refused(history, "an answer that was not taken")
    paths = ("builds", "logs/1/raw", "logs/1/contents", "logs/1/raw_inline")
    with watch(history), ExitStack() as stack:
        slow = [
            stack.enter_context(slow_reader(history, paths[number % len(paths)]))
            for number in range(20)
        ]
        time.sleep(1)
        assert get(history, "builders/103/builds")
        for connection in slow:
            connection.settimeout(20)
            wait_for(partial(is_cut_off, connection), "a slow reader to be cut off", 20)
    assert refused(history, "an answer that was not taken") > before


def is_cut_off(connection: socket.socket) -> bool:
    """Whether the connection has ended; takes nothing of what it holds."""
    status = connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if status:
        return True
    try:
        connection.send(b"")
        info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)
    except OSError:
        return True
    return info[0] != 1  # TCP_ESTABLISHED


def refused(master: Master, reason: str) -> int:
    found: int = master.status()["refused"].get(reason, 0)
    return found


def test_a_slow_reader_gets_all(history: Master) -> None:
    """Who takes a little at a time, for longer than answer_seconds, is not cut off."""
    with slow_reader(history, "builders/103/builds") as connection:
        answer = http.client.HTTPResponse(connection, method="GET")
        answer.begin()
        parts = []
        began_at = time.monotonic()
        while time.monotonic() < began_at + 2 * ANSWER_S:
            parts.append(answer.read(20_000))
            time.sleep(0.2)
        parts.append(answer.read())
    assert b"".join(parts) == get(history, "builders/103/builds")


# who waits, and who is refused


def test_who_goes_away_leaves_his_place(history: Master) -> None:
    for _ in range(3):
        with ExitStack() as stack:
            for _ in range(PLACES_PER_ADDRESS):
                stack.enter_context(slow_reader(history, "builds", "127.0.0.3"))
            time.sleep(0.2)
    visitor = Visitor(history.ports[0])
    visitor.timeout_s = 20
    began_at = time.monotonic()
    assert len(visitor.rest("builders/103/builds")["builds"]) == BUILDS // 20
    require_less(time.monotonic() - began_at, 10)


def test_one_address_does_not_keep_others_out(history: Master) -> None:
    before = refused(history, "too many long reads")
    crowd = PLACES_PER_ADDRESS + MAX_WAITING + 40
    with ExitStack() as stack:
        connections = [
            stack.enter_context(slow_reader(history, "builds", "127.0.0.2")) for _ in range(crowd)
        ]
        wait_for(lambda: refused(history, "too many long reads") > before, "some to be refused")
        began_at = time.monotonic()
        assert len(history.rest("builders/103/builds")["builds"]) == BUILDS // 20
        require_less(time.monotonic() - began_at, 15)
        statuses = []
        for connection in connections[::-1]:
            connection.settimeout(0.1)
            with suppress(OSError):
                statuses.append(connection.recv(4000))
    refusals = [status for status in statuses if status.startswith(b"HTTP/1.1 503")]
    assert refusals
    assert b"retry-after: 10" in refusals[0].lower()
