"""The files of a basedir, and the lock that says which master owns it."""

from __future__ import annotations

import fcntl
import json
import os
import pwd
import re
import shlex
import time
from contextlib import suppress
from dataclasses import asdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from litebot.errors import BasedirError
from litebot.errors import LitebotError
from litebot.errors import MasterNotRunning
from litebot.errors import MasterRunning
from litebot.process import alive
from litebot.process import working_directory

# `litebot status` holds the lock for a moment to see whether somebody else does.
LOCK_PATIENCE_S = 0.5
RESERVE_BYTES = 64 * 1024
ONE_MASTER = "only one master can run there"
# As Buildbot and litebot write it into buildbot.tac.
CONFIG_FILE = re.compile(r"^configfile\s*=\s*['\"](.+?)['\"]", re.MULTILINE)
# As Buildbot does: its folder then can't be copied or moved.
NAMED_BASEDIR = re.compile(r"^basedir\s*=\s*r?(['\"])(/.*?)\1", re.MULTILINE)


@dataclass(frozen=True)
class Owner:
    """The master that runs on a basedir: what it wrote into master.lock.

    `outage` is None, or has `since` (epoch seconds) and `words`: its database is away.
    """

    pid: int
    started_at: float
    url: str | None = None
    outage: dict[str, Any] | None = None


class Basedir:
    """A directory with a master in it.  Making one touches nothing on disk."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path).absolute()
        self.settings_file = self.path / "litebot.toml"
        self.tac_file = self.path / "buildbot.tac"
        self.log_file = self.path / "twistd.log"
        self.pid_file = self.path / "twistd.pid"
        self.lock_file = self.path / "master.lock"
        self.control_socket = self.path / "control.sock"
        self.users_file = self.path / "users"
        self.secrets = self.path / "secrets"
        self.reserve = self.path / "reserve"

    @property
    def config_file(self) -> Path:
        """The configuration that buildbot.tac names, or master.cfg."""
        try:
            text = self.tac_file.read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            text = ""
        found = CONFIG_FILE.search(text)
        return self.path / (found[1] if found else "master.cfg")

    @property
    def quoted(self) -> str:
        """Its path as it can be typed in a shell."""
        return shlex.quote(str(self.path))

    @property
    def master_name(self) -> str:
        """The name of a master here among others on its database, in the table masters.

        Source: buildbot/master.py, whose basedir is the working directory.
        """
        return f"{os.uname().nodename}:{self.path.resolve()}"

    def require(self) -> None:
        """Raise BasedirError where no master was created here."""
        if not self.path.is_dir():
            raise BasedirError(
                f"{self.path} does not exist", f"litebot create-master {self.quoted}"
            )
        if not self.tac_file.exists():
            # A folder that only somebody happens to stand in is none to fill with files.
            was_one = self.settings_file.exists() or (self.path / "state.sqlite").exists()
            raise BasedirError(
                f"{self.path} is no basedir: it has no buildbot.tac",
                f"litebot create-master --force {self.quoted}"
                if was_one
                else "end the command with the folder of a master, or make one: litebot"
                " create-master ci",
            )

    def require_writable(self) -> None:
        """Raise BasedirError where this user can't, or should not, write what a master writes."""
        for path in (self.path, self.log_file, self.lock_file):
            needed = os.W_OK | os.X_OK if path == self.path else os.W_OK
            if path.exists() and not os.access(path, needed):
                user = os.geteuid()
                raise BasedirError(
                    f"{path} can't be written by this user (uid {user})",
                    f"chown -R {user} {self.quoted}",
                )
        self._refuse_root()

    def _refuse_root(self) -> None:
        if os.geteuid() != 0 or not self.path.exists():
            return
        user = self.path.stat().st_uid
        if user != 0:
            path = shlex.quote(str(self.path))
            raise BasedirError(
                f"{self.path} belongs to {_name_of(user)}; root would leave files in it that this"
                " user can't write, and builds would run as root",
                f"as that user, or for root: chown -R root {path}",
            )

    def keep_reserve(self) -> None:
        """Hold some space, given up on a full disk so that the log can say that it is full.

        A disk that is full already has none to hold, which is no reason not to start.
        """
        with suppress(OSError):
            if not self.reserve.exists():
                self.reserve.write_bytes(bytes(RESERVE_BYTES))

    def owner(self) -> Owner | None:
        """The master that runs here now, or None."""
        give_up_at = time.monotonic() + LOCK_PATIENCE_S
        while (text := self._who_locks()) == b"" and time.monotonic() < give_up_at:
            time.sleep(0.02)  # it is about to let go, or has not said yet who it is
        if text is not None:
            return _read_owner(text)
        return self._stock_owner()

    def _who_locks(self) -> bytes | None:
        """What the one says who has the lock; None where nobody has."""
        try:
            with self.lock_file.open("rb") as f:
                try:
                    fcntl.flock(f, fcntl.LOCK_SH | fcntl.LOCK_NB)
                except BlockingIOError:
                    return f.read()
        except FileNotFoundError:
            pass
        return None

    def require_owner(self) -> Owner:
        """The master that runs here.  Raises MasterNotRunning."""
        owner = self.owner()
        if owner is None:
            raise MasterNotRunning(f"no master runs in {self.path}", f"litebot start {self.quoted}")
        return owner

    def refuse_owner(self, need: str = ONE_MASTER) -> None:
        """Raise MasterRunning where one does; `need` says who can't have that."""
        owner = self.owner()
        if owner is not None:
            raise self.refusal(owner, need)

    def refusal(self, owner: Owner, need: str) -> MasterRunning:
        """What to tell someone who needs the basedir without the master that runs in it."""
        return MasterRunning(
            f"{self.path} is open in the master with pid {owner.pid}; {need}",
            f"litebot stop {self.quoted}",
        )

    def _stock_owner(self) -> Owner | None:
        """A master of stock Buildbot takes no lock; its pid file tells, if that pid is its."""
        try:
            pid = int(self.pid_file.read_text(encoding="ascii"))
            started_at = self.pid_file.stat().st_mtime
        except (OSError, ValueError):
            return None
        runs_here = alive(pid) and working_directory(pid) == self.path.resolve()
        return Owner(pid, started_at) if runs_here and pid != os.getpid() else None


def _name_of(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"


def _read_owner(text: bytes) -> Owner:
    try:
        return Owner(**json.loads(text))
    except (ValueError, TypeError):
        return Owner(pid=0, started_at=0.0)  # it has the lock and has not said its name yet


def refused_by_system(basedir: Path, error: OSError) -> LitebotError:
    """What to tell where the operating system refuses to open or write a file of a basedir."""
    where = f" {error.filename}:" if error.filename else ""
    folder = shlex.quote(str(basedir))
    return LitebotError(
        f"{basedir}:{where} {error.strerror or error}", f"df {folder}; ls -ld {folder}"
    )


class OwnerLock:
    """Held by the one master of a basedir; the kernel drops it when the process dies."""

    def __init__(self, basedir: Basedir) -> None:
        """Take the lock and say so.  Raises MasterRunning with the pid of the one that has it."""
        self._fd = os.open(basedir.lock_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        give_up_at = time.monotonic() + LOCK_PATIENCE_S
        while True:
            try:
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > give_up_at:
                    owner = _read_owner(os.pread(self._fd, 4096, 0))
                    os.close(self._fd)
                    raise basedir.refusal(owner, ONE_MASTER) from None
                time.sleep(0.02)
        self.write(Owner(os.getpid(), time.time()))

    def write(self, owner: Owner) -> None:
        """Say who holds it, for `litebot status` and for a second master's refusal."""
        text = json.dumps(asdict(owner)).encode()
        os.pwrite(self._fd, text, 0)
        os.ftruncate(self._fd, len(text))

    def release(self) -> None:
        """Let go of it; the file stays, since another may just be opening it."""
        os.ftruncate(self._fd, 0)  # the next owner must not be taken for this one
        os.close(self._fd)
