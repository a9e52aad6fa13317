"""The files of a basedir, and the lock by which one master owns it."""

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
from litebot.files import PRIVATE
from litebot.files import open_private
from litebot.process import alive
from litebot.process import working_directory

# How long to wait for the lock: `litebot status` takes it for a moment to see whether it is free.
LOCK_TIMEOUT_S = 0.5
# How long to wait for the lock of a process that is dead: one that it was about to start has the
# lock, too, until it executes its program.
DEAD_OWNER_TIMEOUT_S = 5.0
RESERVE_BYTES = 64 * 1024
ONE_MASTER = "only one master can run there"
# The line with the configuration file that Buildbot and litebot write into buildbot.tac.
CONFIG_FILE = re.compile(r"^configfile\s*=\s*['\"](.+?)['\"]", re.MULTILINE)
# The line with an absolute basedir that Buildbot writes; with it, the folder can't be copied or
# moved.
NAMED_BASEDIR = re.compile(r"^basedir\s*=\s*r?(['\"])(/.*?)\1", re.MULTILINE)


@dataclass(frozen=True)
class Owner:
    """The master that runs on a basedir, as it describes itself in master.lock.

    While the master's database server is away, `outage` is a dict with `since` (epoch seconds) and
    `words`, a description of the outage; otherwise it is None.
    """

    pid: int
    started_at: float
    url: str | None = None
    outage: dict[str, Any] | None = None


class Basedir:
    """A directory with a master in it.  Making a Basedir changes nothing on disk."""

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
        """Return the path of the configuration that buildbot.tac names, by default master.cfg."""
        try:
            text = self.tac_file.read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            text = ""
        found = CONFIG_FILE.search(text)
        return self.path / (found[1] if found else "master.cfg")

    @property
    def quoted(self) -> str:
        """Return the path, quoted for a shell."""
        return shlex.quote(str(self.path))

    @property
    def master_name(self) -> str:
        """Return the name in the table `masters` of a master that runs here.

        Source: buildbot/master.py, whose basedir is the working directory.
        """
        return f"{os.uname().nodename}:{self.path.resolve()}"

    def require(self) -> None:
        """Raise BasedirError if no master was created here."""
        if not self.path.is_dir():
            raise BasedirError(
                f"{self.path} does not exist", f"litebot create-master {self.quoted}"
            )
        if not self.tac_file.exists():
            # Without traces of a master this may just be the user's current folder, which the hint
            # must not fill with files.
            had_master = self.settings_file.exists() or (self.path / "state.sqlite").exists()
            raise BasedirError(
                f"{self.path} is no basedir: it has no buildbot.tac",
                f"litebot create-master --force {self.quoted}"
                if had_master
                else "end the command with the folder of a master, or make one: litebot"
                " create-master ci",
            )

    def require_writable(self) -> None:
        """Raise BasedirError if this user can't, or should not, write the files of a master."""
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
                f"{self.path} belongs to {name_of(user)}; root would leave files in it that this"
                " user can't write, and builds would run as root",
                f"as that user, or for root: chown -R root {path}",
            )

    def keep_reserve(self) -> None:
        """Reserve some disk space, to be freed on a full disk so that the log can still be written.

        Does nothing on a disk that is full already: that is no reason not to start.
        """
        with suppress(OSError):
            if not self.reserve.exists():
                with open(self.reserve, "wb", opener=open_private) as file:
                    file.write(bytes(RESERVE_BYTES))

    def owner(self) -> Owner | None:
        """Return the master that runs here now, or None."""
        began_at = time.monotonic()
        while (text := self._read_lock()) is not None and _may_be_released(text, began_at):
            time.sleep(0.02)
        if text is not None:
            return _parse_owner(text)
        return self._stock_owner()

    def _read_lock(self) -> bytes | None:
        """Return what the owner of the lock wrote into the file, or None if nobody owns it."""
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
        """Return the master that runs here.  Raises MasterNotRunning."""
        owner = self.owner()
        if owner is None:
            raise MasterNotRunning(f"no master runs in {self.path}", f"litebot start {self.quoted}")
        return owner

    def refuse_owner(self, need: str = ONE_MASTER) -> None:
        """Raise MasterRunning if a master runs here; `need` says why that is in the way."""
        owner = self.owner()
        if owner is not None:
            raise self.refusal(owner, need)

    def refusal(self, owner: Owner, need: str) -> MasterRunning:
        """Return the error for a command that can't work while `owner` runs."""
        return MasterRunning(
            f"{self.path} is open in the master with pid {owner.pid}; {need}",
            f"litebot stop {self.quoted}",
        )

    def _stock_owner(self) -> Owner | None:
        """Return the running master of stock Buildbot, or None.

        It takes no lock but has a pid file, whose pid may by now be another process.
        """
        try:
            pid = int(self.pid_file.read_text(encoding="ascii"))
            started_at = self.pid_file.stat().st_mtime
        except (OSError, ValueError):
            return None
        runs_here = alive(pid) and working_directory(pid) == self.path.resolve()
        return Owner(pid, started_at) if runs_here and pid != os.getpid() else None


def name_of(uid: int) -> str:
    """Return the name of a user, or `uid N` for one without a name."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"


def _parse_owner(text: bytes) -> Owner:
    try:
        return Owner(**json.loads(text))
    except (ValueError, TypeError):
        return Owner(pid=0, started_at=0.0)  # the owner has not written who it is yet


def _may_be_released(text: bytes, began_at: float) -> bool:
    """Return whether to wait for a lock that is held, whose file has this text.

    An owner that is about to release it has no text in it, nor has one that is about to write who
    it is.  A dead one has left its lock to a process that executes its program soon.
    """
    waited_s = time.monotonic() - began_at
    if text == b"":
        return waited_s < LOCK_TIMEOUT_S
    pid = _parse_owner(text).pid
    return pid > 0 and not alive(pid) and waited_s < DEAD_OWNER_TIMEOUT_S


def refused_by_system(basedir: Path, error: OSError) -> LitebotError:
    """Return the error for a file of a basedir that the system refuses to open or write."""
    where = f" {error.filename}:" if error.filename else ""
    folder = shlex.quote(str(basedir))
    return LitebotError(
        f"{basedir}:{where} {error.strerror or error}", f"df {folder}; ls -ld {folder}"
    )


class OwnerLock:
    """The lock of a basedir's only master; the kernel releases it when the process dies."""

    def __init__(self, basedir: Basedir) -> None:
        """Take the lock and write who has it.  Raises MasterRunning with the pid of its owner."""
        self._fd = os.open(basedir.lock_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, PRIVATE)
        began_at = time.monotonic()
        while True:
            try:
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                text = os.pread(self._fd, 4096, 0)
                # `litebot status` may have the lock for a moment.
                is_probed = time.monotonic() - began_at < LOCK_TIMEOUT_S
                if not is_probed and not _may_be_released(text, began_at):
                    owner = _parse_owner(text)
                    os.close(self._fd)
                    raise basedir.refusal(owner, ONE_MASTER) from None
                time.sleep(0.02)
        self.write(Owner(os.getpid(), time.time()))

    def write(self, owner: Owner) -> None:
        """Write who owns the lock, for `litebot status` and for the error of a second master."""
        text = json.dumps(asdict(owner)).encode()
        os.pwrite(self._fd, text, 0)
        os.ftruncate(self._fd, len(text))

    def release(self) -> None:
        """Release the lock; the file stays, as another process may be opening it."""
        os.ftruncate(self._fd, 0)  # or the next owner could be taken for this one
        os.close(self._fd)
