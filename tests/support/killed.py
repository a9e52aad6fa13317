"""Masters that are killed at a point that the test names, and what their tables say afterwards."""

from __future__ import annotations

import json
import os
import textwrap
from pathlib import Path

from litebot.basedir import Basedir
from support.commands import Done
from support.commands import is_running
from support.commands import succeeded
from support.commands import wait_for
from support.configured import CONFIG
from support.master import Master

# What a buildbot.tac imports its master with, and what takes that one's place: see support.kill_at.
IMPORT = "from litebot.master.service import BuildMaster\n"
IMPORT_FATAL = f"""{IMPORT}
import sys
sys.path.append({str(Path(__file__).parents[1])!r})
from support.kill_at import BuildMaster
"""


PROPERTY = """
SELECT s.id, p.property_value FROM buildsets s
JOIN buildset_properties p ON p.buildsetid = s.id AND p.property_name = :name ORDER BY s.id
"""


class Victim(Master):
    """A master whose configuration begins as CONFIG, and that can be made to kill itself."""

    def write_config(self, text: str) -> None:
        """CONFIG and this."""
        path = self.basedir / "master.cfg"
        path.write_text(CONFIG + textwrap.dedent(text), encoding="utf-8")

    def start_to_die(self, point: str) -> Done:
        """Start it with this as LITEBOT_KILL_AT; it may die before it answers."""
        tac = self.basedir / "buildbot.tac"
        text = tac.read_text(encoding="utf-8")
        if IMPORT_FATAL not in text:
            assert IMPORT in text
            tac.write_text(text.replace(IMPORT, IMPORT_FATAL), encoding="utf-8")
        done = self.run("start", env={**os.environ, "LITEBOT_KILL_AT": point})
        if done.returncode == 0:
            owner = Basedir(self.basedir).owner()
            pid = int(done.stdout.partition("pid ")[2].split()[0])
            self.pids.append(pid)
            assert owner is None or owner.pid == pid
        return done

    def await_death(self) -> None:
        """Wait until it has killed itself."""
        self.await_end()

    def ask_for(self, builder: str) -> int:
        """Force a build; its request's id, also where the master dies before it answers."""
        done = self.force(builder, "--no-wait")
        if done.returncode != 0 and not is_running(self.pid):
            ((brid,),) = self.rows("SELECT max(id) FROM buildrequests")
            return int(brid)
        return int(succeeded(done).stdout)

    def schedulers(self) -> dict[int, str]:
        """The scheduler that made each buildset."""
        return {bsid: json.loads(text)[0] for bsid, text in self.rows(PROPERTY, name="scheduler")}

    def covered(self, scheduler: str) -> list[int]:
        """The changes in all buildsets of a Telling scheduler, in their order."""
        rows = self.rows(PROPERTY, name="covered")
        made_by = self.schedulers()
        mine = [json.loads(text)[0] for bsid, text in rows if made_by[bsid] == scheduler]
        return [changeid for changeids in mine for changeid in changeids]

    @property
    def told(self) -> Path:
        """The file of the reporters."""
        return self.basedir / "told"

    def repairs(self) -> list[str]:
        """The kinds of what the last start found, in order."""
        return [repair["kind"] for repair in self.status()["last_start"]["repairs"]]

    def await_quiet(self) -> None:
        """Wait until every buildset is complete."""
        wait_for(
            lambda: not self.rows("SELECT 1 FROM buildsets WHERE complete = 0"),
            "all buildsets to be complete",
            60,
        )


def copy_of(created: Master, folder: Path) -> Victim:
    """A victim in a folder that does not exist yet."""
    original = Victim(created.basedir, created.password)
    original.server, original.database = created.server, created.database
    return original.copy(folder)


def joined(victim: Victim, folder: Path) -> Victim:
    """Another on the same database, with the same configuration, not started yet."""
    other = Victim(folder, victim.password)
    other.create("--like", str(victim.basedir))
    return other
