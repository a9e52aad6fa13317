"""Several masters on one Postgres share the builds, and go on with what one of them leaves."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import RETRY
from conftest import SUCCESS
from conftest import Master
from conftest import wait_for
from postgres import Postgres
from several import Site
from several import change
from several import errors

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

FINAL = f"SELECT buildrequestid, id, masterid FROM builds WHERE results <> {RETRY}"
UNFINISHED_REQUESTS = "SELECT 1 FROM buildrequests WHERE complete = 0"


@pytest.fixture
def site(
    postgres: Postgres, watch: Callable[[Master], Master], tmp_path: Path
) -> Callable[[str], Site]:
    """Call it with the end of a configuration for masters that share a database."""
    return lambda config: Site(postgres, tmp_path, watch, config)


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
def test_three_share_300_builds_and_one_is_killed(site: Callable[[str], Site]) -> None:
    here = site(SHARED)
    masters = here.started("one", "two", "three")
    ids = {here.masterid(master): master.basedir.name for master in masters}
    for number in range(CHANGES):
        assert change(masters[number % 3], revision=str(number), branch="x") == 200
    here.await_rows(f"SELECT 1 FROM ({FINAL}) b HAVING count(*) >= 100", "the first hundred builds")
    # The one that has the schedulers, so that they have to move, too.
    ((owner,),) = here.rows("SELECT DISTINCT masterid FROM scheduler_masters")
    victim = next(master for master in masters if here.masterid(master) == owner)
    others = [master for master in masters if master is not victim]
    running = f"SELECT 1 FROM builds WHERE complete_at IS NULL AND masterid = {owner}"
    here.await_rows(running, "it to build something")
    free_s = kill(here, victim, *others)
    for number in range(3):
        assert change(others[0], revision=f"late {number}", branch="x") == 200
    here.await_quiet(200)
    print(f"the claims of the killed master were free after {free_s:.1f} s")

    finals = here.rows(FINAL)
    requests = (CHANGES + 3) * (BUILDERS + 1)  # and the one downstream
    per_request = Counter(brid for brid, _, _ in finals)
    assert len(per_request) == requests
    assert set(per_request.values()) == {1}
    assert here.rows("SELECT DISTINCT complete, results FROM buildrequests") == [(1, SUCCESS)]
    shares = Counter(ids[masterid] for _, _, masterid in finals)
    print(f"builds of each master: {dict(shares)}")
    assert set(shares) == {"one", "two", "three"}
    assert min(shares.values()) >= 10
    # Each change is in one buildset, each buildset has one that depends on it.
    assert here.rows("SELECT count(*) FROM buildsets") == [(2 * (CHANGES + 3),)]
    retried = here.rows(f"SELECT id, buildrequestid FROM builds WHERE results = {RETRY}")
    assert retried
    attempts = here.rows("SELECT value FROM build_properties WHERE name = 'attempt'")
    assert attempts == [("2",)] * len(retried)
    told = Counter(line for line in here.lines_told() if line.startswith("mailer"))
    assert set(told) == {f"mailer {buildid} {SUCCESS}" for _, buildid, _ in finals}
    # What the killed one was about to tell, or to note that it has, is told again.
    twice = [line for line, times in told.items() if times > 1]
    assert len(twice) <= 5, twice
    claims = here.rows("SELECT DISTINCT masterid FROM scheduler_masters")
    assert claims
    assert (owner,) not in claims
    assert [errors(master) for master in others] == [[], []]
    assert free_s < FAILOVER_S
