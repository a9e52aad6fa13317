"""Masters that are killed at a point that the test names, and what is in their tables then."""

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

# The line by which buildbot.tac imports the master, and its replacement: see support.kill_at.
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
    """A master whose configuration begins with CONFIG, and that a test can let kill itself."""

    def write_config(self, text: str) -> None:
        """Write a master.cfg of CONFIG and this text."""
        path = self.basedir / "master.cfg"
        path.write_text(CONFIG + textwrap.dedent(text), encoding="utf-8")

    def start_to_die(self, point: str) -> Done:
        """Start the master, to die at a point: see kill_at.arm.  It may die while it starts."""
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
        """Wait until the master has killed itself."""
        self.await_end()

    def ask_for(self, builder: str) -> int:
        """Force a build; return its request's id, even if the master dies before it answers."""
        done = self.force(builder, "--no-wait")
        if done.returncode != 0 and not is_running(self.pid):
            ((brid,),) = self.rows("SELECT max(id) FROM buildrequests")
            return int(brid)
        return int(succeeded(done).stdout)

    def schedulers(self) -> dict[int, str]:
        """Return the name of the scheduler that made each buildset, by its id."""
        return {bsid: json.loads(text)[0] for bsid, text in self.rows(PROPERTY, name="scheduler")}

    def covered(self, scheduler: str) -> list[int]:
        """Return the changes in all buildsets of a Telling scheduler, in order."""
        rows = self.rows(PROPERTY, name="covered")
        made_by = self.schedulers()
        mine = [json.loads(text)[0] for bsid, text in rows if made_by[bsid] == scheduler]
        return [changeid for changeids in mine for changeid in changeids]

    @property
    def reported(self) -> Path:
        """Return the path of the file to which the reporters write."""
        return self.basedir / "reported"

    def repairs(self) -> list[str]:
        """Return the kinds of the findings of the last start, in order."""
        return [repair["kind"] for repair in self.status()["last_start"]["repairs"]]

    def await_quiet(self) -> None:
        """Wait until every buildset is complete."""
        wait_for(
            lambda: not self.rows("SELECT 1 FROM buildsets WHERE complete = 0"),
            "all buildsets to be complete",
            60,
        )


def copy_of(created: Master, folder: Path) -> Victim:
    """Copy a created master to a folder that does not exist yet; return it as a Victim."""
    original = Victim(created.basedir, created.password)
    original.server, original.database = created.server, created.database
    return original.copy(folder)


def joined(victim: Victim, folder: Path) -> Victim:
    """Create another master on the same database, with the same configuration; not started."""
    other = Victim(folder, victim.password)
    other.create("--like", str(victim.basedir))
    return other
