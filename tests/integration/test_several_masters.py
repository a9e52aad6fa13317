"""Several masters on one Postgres share the builds, and go on with what one of them leaves."""

from __future__ import annotations

import os
import signal
import subprocess
import textwrap
import time
from collections import Counter
from collections.abc import Callable
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from support.commands import LITEBOT
from support.commands import begin
from support.commands import run
from support.commands import succeeded
from support.commands import wait_for
from support.master import CANCELLED
from support.master import RETRY
from support.master import SUCCESS
from support.master import Master
from support.ports import free_ports
from support.postgres import Postgres
from support.remote import remote_worker
from support.several import JUDGES_SOON
from support.several import Site
from support.several import errors
from support.timing import require_less

ROOT = Path(__file__).parents[2]

BUILDERS = 10
CHANGES = 30
FAILOVER_S = 10.0

SHARED = f"""
names = [f"b{{n}}" for n in range({BUILDERS})]
for name in names:
    builder(name, shell("true"))
builder("after", shell("true"))
each = schedulers.AnyBranchScheduler("each", treeStableTimer=None, builderNames=names)
c["schedulers"] += [each, schedulers.Dependent("downstream", each, ["after"])]
port = "tcp:0:interface=127.0.0.1"
c["change_source"] = [changes.PBChangeSource(port=port, user="u", passwd="p")]
reporter("mailer", reporters.BuildStatusGenerator(mode="all"))
reporter("pusher", reporters.BuildSetStatusGenerator(mode="all"))
"""

# A builder on the worker `remote`, whose builds last until there is the file `go`.
REMOTE = """
c["workers"].append(worker.Worker("remote", "workerpw"))
builder("b", shell("until [ -e {go} ]; do sleep 0.05; done"), workernames=["remote"])
"""

FINAL = f"SELECT buildrequestid, id, masterid FROM builds WHERE results <> {RETRY}"
UNFINISHED_REQUESTS = "SELECT 1 FROM buildrequests WHERE complete = 0"


@pytest.fixture
def site(
    postgres: Postgres, watch: Callable[[Master], Master], tmp_path: Path
) -> Callable[[str], Site]:
    """Call it with the end of a configuration for masters that share a database."""
    return lambda config: Site(postgres, tmp_path, watch, JUDGES_SOON + textwrap.dedent(config))


def kill(site: Site, master: Master, *others: Master) -> float:
    """kill -9 a master, and wait until another one has its work; after how many seconds."""
    masterid = site.masterid(master)
    os.kill(master.pid, signal.SIGKILL)
    killed_at = time.monotonic()
    claimed = f"SELECT 1 FROM {{}} WHERE masterid = {masterid}"
    held = [claimed.format(table) for table in ("scheduler_masters", "changesource_masters")]
    held.append(
        "SELECT 1 FROM buildrequest_claims c JOIN buildrequests r ON r.id = c.brid"
        f" WHERE r.complete = 0 AND c.masterid = {masterid}"
    )
    site.await_none(" UNION ALL ".join(held), "the claims of a dead master to be free", 20)
    free_s = time.monotonic() - killed_at
    wait_for(lambda: any("its work is taken over" in each.log for each in others), "who did it")
    return free_s


@pytest.mark.timeout(300)  # it is a lot of work for a busy machine
def test_three_share_300_builds_and_one_is_killed(
    site: Callable[[str], Site], measured: Callable[[str], None]
) -> None:
    here = site(SHARED)
    masters = here.started("one", "two", "three")
    ids = {here.masterid(master): master.basedir.name for master in masters}
    for number in range(CHANGES):
        assert masters[number % 3].change(revision=str(number), branch="x") == 200
    here.await_rows(f"SELECT 1 FROM ({FINAL}) b HAVING count(*) >= 100", "the first hundred builds")
    # The one that has the schedulers, so that they have to move, too.
    ((owner,),) = here.rows("SELECT DISTINCT masterid FROM scheduler_masters")
    victim = next(master for master in masters if here.masterid(master) == owner)
    others = [master for master in masters if master is not victim]
    running = f"SELECT 1 FROM builds WHERE complete_at IS NULL AND masterid = {owner}"
    here.await_rows(running, "it to build something")
    free_s = kill(here, victim, *others)
    for number in range(3):
        assert others[0].change(revision=f"late {number}", branch="x") == 200
    here.await_quiet(200)
    measured(f"the claims of the killed master were free after {free_s:.1f} s")

    finals = here.rows(FINAL)
    requests = (CHANGES + 3) * (BUILDERS + 1)  # and the one downstream
    per_request = Counter(brid for brid, _, _ in finals)
    assert len(per_request) == requests
    assert set(per_request.values()) == {1}
    assert here.rows("SELECT DISTINCT complete, results FROM buildrequests") == [(1, SUCCESS)]
    shares = Counter(ids[masterid] for _, _, masterid in finals)
    measured(f"builds of each master: {dict(shares)}")
    assert set(shares) == {"one", "two", "three"}
    assert min(shares.values()) >= 10
    # Each change is in one buildset, each buildset has one that depends on it.
    assert here.rows("SELECT count(*) FROM buildsets") == [(2 * (CHANGES + 3),)]
    retried = here.rows(f"SELECT id, buildrequestid FROM builds WHERE results = {RETRY}")
    assert retried
    attempts = here.rows("SELECT value FROM build_properties WHERE name = 'attempt'")
    assert attempts == [("2",)] * len(retried)
    reported = Counter(line for line in here.lines_reported() if line.startswith("mailer"))
    assert set(reported) == {f"mailer {buildid} {SUCCESS}" for _, buildid, _ in finals}
    # What the killed one was about to tell, or to note that it has, is reported again.
    twice = [line for line, times in reported.items() if times > 1]
    assert len(twice) <= 5, twice
    claims = here.rows("SELECT DISTINCT masterid FROM scheduler_masters")
    assert claims
    assert (owner,) not in claims
    assert [errors(master) for master in others] == [[], []]
    require_less(free_s, FAILOVER_S)


def test_a_scheduler_moves_when_its_master_stops(site: Callable[[str], Site]) -> None:
    here = site(
        """
        builder("b", shell("true"), collapseRequests=True)
        each = schedulers.AnyBranchScheduler("each", treeStableTimer=None, builderNames=["b"])
        c["schedulers"].append(each)
        """
    )
    one, two = here.started("one", "two")
    owner = "SELECT masterid FROM scheduler_masters JOIN schedulers s ON s.id = schedulerid"
    owner += " WHERE s.name = 'each' AND masterid = "
    assert here.rows(f"{owner}{here.masterid(one)}")
    found, other = one.status(), two.status()["last_start"]
    assert found["last_start"]["pid"] == one.pid
    assert found["masters"] == [other["master"]]
    stop = begin(LITEBOT, "stop", one.basedir, stdout=subprocess.DEVNULL)
    sent = 0
    while stop.poll() is None or sent < 10:  # before, while and after it moves
        assert two.change(revision=str(sent), branch="x") == 200
        sent += 1
    assert stop.returncode == 0
    assert two.status()["masters"] == []
    here.await_rows(f"{owner}{here.masterid(two)}", "the scheduler to move", FAILOVER_S)
    built = "SELECT changeid, count(*) FROM litebot_built GROUP BY changeid"
    here.await_rows(f"SELECT 1 FROM ({built}) b HAVING count(*) = {sent}", "all to be given")
    assert {count for _, count in here.rows(built)} == {1}
    here.await_quiet()
    assert [errors(master) for master in (one, two)] == [[], []]


def test_a_scheduler_that_is_disabled_is_so_for_all(site: Callable[[str], Site]) -> None:
    here = site(
        """
        builder("b", shell("true"))
        builder("after", shell("true"))
        (upstream,) = [each for each in c["schedulers"] if each.name == "force-b"]
        c["schedulers"].append(schedulers.Dependent("downstream", upstream, ["after"]))
        """
    )
    one, two = here.started("one", "two")
    ids = dict(here.rows("SELECT name, id FROM schedulers"))
    admin = two.login()
    for name in ("force-b", "downstream"):
        path = f"schedulers/{ids[name]}"
        assert admin.control(path, "enable", enabled=False).status == 200
    for master in (one, two):
        (shown,) = master.rest("forceschedulers/force-b")["forceschedulers"]
        listed = {each["name"]: each for each in master.rest("forceschedulers")["forceschedulers"]}
        assert [shown["enabled"], listed["force-b"]["enabled"]] == [False, False]
        succeeded(master.force("b"))
    assert here.rows("SELECT * FROM litebot_subscriptions") == []
    path = f"schedulers/{ids['downstream']}"
    assert admin.control(path, "enable", enabled=True).status == 200
    succeeded(two.force("b"))
    after = "SELECT r.id FROM buildrequests r JOIN builders b ON b.id = r.builderid"
    after += " WHERE b.name = 'after'"
    here.await_rows(after, "the buildset that depends on the last one")
    here.await_quiet()
    assert len(here.rows(after)) == 1


def test_what_one_has_no_more_goes_to_another_one(site: Callable[[str], Site]) -> None:
    here = site(
        """
        builder("b", shell("true"))
        each = schedulers.AnyBranchScheduler("each", treeStableTimer=None, builderNames=["b"])
        c["schedulers"].append(each)
        port = "tcp:0:interface=127.0.0.1"
        c["change_source"] = [changes.PBChangeSource(port=port, user="u", passwd="p")]
        """
    )
    one, two = here.started("one", "two")
    claims = "SELECT masterid FROM scheduler_masters JOIN schedulers s ON s.id = schedulerid"
    claims += " WHERE s.name = 'each' UNION ALL SELECT masterid FROM changesource_masters"
    first, second = here.masterid(one), here.masterid(two)
    assert here.rows(claims) == [(first,), (first,)]
    one.configure('c["schedulers"].remove(each)\nc["change_source"] = []')
    one.reconfig()
    wait_for(lambda: here.rows(claims) == [(second,), (second,)], "both to move", FAILOVER_S)
    assert two.change(revision="1", branch="x") == 200
    here.await_rows("SELECT 1 FROM litebot_built", "the scheduler to act")
    here.await_quiet()
    assert [errors(master) for master in (one, two)] == [[], []]


def test_each_does_what_another_one_is_told(site: Callable[[str], Site], tmp_path: Path) -> None:
    go = tmp_path / "go"
    here = site(
        f"""
        builder("b", shell("until [ -e {go} ]; do sleep 0.05; done"))
        reporter("mailer", reporters.BuildStartEndStatusGenerator())
        """
    )
    more = """
        c["builders"], c["schedulers"] = [], []
        builder("other", shell("true"))
        reporter("chat", reporters.BuildStatusGenerator(mode="all"))
        """
    one, two = here.master("one"), here.master("two", more)
    one.start()
    for buildid in (1, 2):
        assert one.force("b", "--no-wait").returncode == 0
        here.await_rows(f"SELECT 1 FROM steps WHERE buildid = {buildid}", "the step to run")
        if buildid == 1:
            # Not heard of for long, as one that is very slow: it lives.
            here.rows("UPDATE masters SET last_active = 0 RETURNING id")
            two.start()
            assert here.rows("SELECT complete_at FROM builds") == [(None,)]
            assert two.login().control("builds/1", "stop").status == 200
        else:
            go.touch()
        here.await_none(UNFINISHED_REQUESTS, "the request to end")
    here.await_quiet()
    # What both have tells of each beginning and end once, as does what only the other one has.
    mailer = ("1 6", "1 None", "2 0", "2 None")
    expected = ["chat 1 6", "chat 2 0", *(f"mailer {end}" for end in mailer)]
    assert here.lines_reported() == expected


def test_tables_are_not_upgraded_under_another_master(site: Callable[[str], Site]) -> None:
    here = site('builder("b", shell("true"))')
    one, two = here.started("one", "two")
    one.stop()
    before = one.contents()
    (name,) = here.rows(f"SELECT name FROM masters WHERE id = {here.masterid(two)}")[0]

    def is_refused(command: str) -> None:
        done = one.run(command)
        assert done.returncode == 1
        assert f"has a running master {name}; the upgrade needs all of them stopped" in done.stderr
        assert f": litebot stop {two.basedir}" in done.stderr
        assert one.contents() == before

    is_refused("upgrade-master")
    here.rows("UPDATE litebot_schema SET version = version - 1 RETURNING version")
    is_refused("start")
    here.rows("UPDATE litebot_schema SET version = version + 1 RETURNING version")
    one.start()
    one.stop()
    two.stop()
    succeeded(one.run("upgrade-master"))


def test_a_child_on_another_master_ends_with_its_parent(
    site: Callable[[str], Site], tmp_path: Path
) -> None:
    go = tmp_path / "go"
    here = site(
        f"""
        c["workers"].append(worker.Worker("nowhere", "workerpw"))
        builder("parent", steps.Trigger(schedulerNames=["children"], waitForFinish=True))
        builder("child", shell("until [ -e {go} ]; do sleep 0.05; done"), workernames=["nowhere"])
        c["schedulers"].append(schedulers.Triggerable("children", builderNames=["child"]))
        """
    )
    turned = """
        for each in c["builders"]:
            each.workernames = ["local" if each.name == "child" else "nowhere"]
        """
    one, two = here.master("one"), here.master("two", turned)
    for master in (one, two):
        master.start()
    assert one.force("parent", "--no-wait").returncode == 0
    at_two = "SELECT 1 FROM steps s JOIN builds b ON b.id = s.buildid WHERE masterid = {}"
    at_two = at_two.format(here.masterid(two))
    here.await_rows(at_two, "the child to run")
    os.kill(one.pid, signal.SIGKILL)
    ended = f"SELECT 1 FROM builds WHERE results = {CANCELLED}"
    here.await_rows(ended, "the child to be cancelled", FAILOVER_S)
    one.start()
    here.await_rows(f"{at_two} AND s.complete_at IS NULL", "another child to run")
    go.touch()
    here.await_quiet()
    query = "SELECT b.name, results FROM builds JOIN builders b ON b.id = builderid ORDER BY 1, 2"
    assert here.rows(query) == [
        *(("child", SUCCESS), ("child", CANCELLED)),
        *(("parent", SUCCESS), ("parent", RETRY)),
    ]
    assert errors(two) == []


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Call it with a connection string to start a worker "remote" of its own process."""
    with ExitStack() as stack:

        def start(way: str, **env: str) -> subprocess.Popen[bytes]:
            # An editable installation of litebot leaves out the folder of Twisted's plugins.
            env = {"PYTHONPATH": str(ROOT), **env}
            option = f"--connection-string={way}"
            return stack.enter_context(remote_worker(tmp_path / "remote", "ci", option, **env))

        yield start


def test_a_worker_goes_to_another_master(
    site: Callable[[str], Site],
    worker: Callable[..., subprocess.Popen[bytes]],
    tmp_path: Path,
    measured: Callable[[str], None],
) -> None:
    go = tmp_path / "go"
    here = site(REMOTE.format(go=go))
    one, two = here.started("one", "two")
    worker(":".join(["masters", *(rf"127.0.0.1\:{master.ports[1]}" for master in (one, two))]))
    at = "SELECT 1 FROM connected_workers c JOIN workers w ON w.id = c.workerid"
    at += " WHERE w.name = 'remote' AND masterid = "
    here.await_rows(f"{at}{here.masterid(one)}", "the worker to come")
    assert one.force("b", "--no-wait").returncode == 0
    here.await_rows("SELECT 1 FROM steps", "the step to run")
    os.kill(one.pid, signal.SIGKILL)
    killed_at = time.monotonic()
    here.await_rows(f"{at}{here.masterid(two)}", "the worker to go on")
    moved_s = time.monotonic() - killed_at
    here.await_rows("SELECT 1 FROM builds WHERE number = 2", "the build to be tried again")
    retried_s = time.monotonic() - killed_at
    measured(
        f"the worker was at the other master after {moved_s:.1f} s, its build {retried_s:.1f} s"
    )
    go.touch()
    here.await_quiet()
    assert here.rows("SELECT number, results FROM builds ORDER BY 1") == [(1, RETRY), (2, SUCCESS)]
    require_less(moved_s, FAILOVER_S)
    require_less(retried_s, FAILOVER_S)


def test_a_worker_is_told_to_stop_until_it_has(
    site: Callable[[str], Site],
    worker: Callable[..., subprocess.Popen[bytes]],
    tmp_path: Path,
) -> None:
    go = tmp_path / "go"
    here = site(REMOTE.format(go=go))
    one, two = here.started("one", "two")
    way = f"tcp:127.0.0.1:{one.ports[1]}"
    process = worker(way)
    at_one = "SELECT w.id FROM connected_workers c JOIN workers w ON w.id = c.workerid"
    at_one += " WHERE w.name = 'remote'"
    ((workerid,),) = here.await_rows(at_one, "the worker to come")
    assert one.force("b", "--no-wait").returncode == 0
    here.await_rows("SELECT 1 FROM steps", "the step to run")
    assert two.login().control(f"workers/{workerid}", "stop", reason="kernel").status == 200
    two.stop()
    two.start()  # one looks for what it has not heard of, while the worker still builds
    go.touch()
    wait_for(lambda: process.poll() is not None, "the worker to end")
    here.await_none(at_one, "its master to note it")
    assert here.rows("SELECT * FROM litebot_told") == []
    process = worker(way)
    here.await_rows(at_one, "the worker to come again")
    succeeded(one.force("b"))
    assert process.poll() is None
    assert here.rows("SELECT graceful FROM workers WHERE name = 'remote'") == [(0,)]
    # What a master has kept and told nobody, as it was killed at that moment.
    row = f"('workers', {workerid}, 'stop', 'kernel')"
    here.rows(f"INSERT INTO litebot_told (kind, about, action, reason) VALUES {row} RETURNING 1")
    two.stop()
    wait_for(lambda: process.poll() is not None, "the worker to end again")


def test_a_worker_that_wants_tls_takes_no_other_certificate(
    master: Master, worker: Callable[..., subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    names = ("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost")
    files = ("-keyout", key, "-out", certificate)
    succeeded(run("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", *names, *files))
    (port,) = free_ports(1)
    master.configure(
        f"""
        listen = "ssl:port={port}:interface=127.0.0.1:privateKey={key}:certKey={certificate}"
        c["protocols"] = {{"pb": {{"port": listen}}}}
        c["workers"].append(worker.Worker("remote", "workerpw"))
        """
    )
    master.start()
    way = f"masters:localhost:port={port}:tls=yes"
    worker(way)
    log = tmp_path / "remote" / "twistd.log"
    wait_for(lambda: log.exists() and "certificate verify failed" in log.read_text(), "a refusal")
    worker(way, SSL_CERT_FILE=str(certificate))
    wait_for(lambda: "Got workerinfo from 'remote'" in master.log, "the worker to come")
