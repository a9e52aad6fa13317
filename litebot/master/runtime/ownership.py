"""What this process has in a basedir while it is its master: the owner's lock and the pid file."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from typing import Any

from litebot.basedir import Basedir
from litebot.basedir import Owner
from litebot.basedir import OwnerLock


class Ownership:
    """The owner's lock of a basedir, with what it tells `litebot status` of a running master."""

    def __init__(self, files: Basedir) -> None:
        self._files = files
        self._lock: OwnerLock | None = None
        self._owner: Owner | None = None
        self._wrote_pid_file = False

    @property
    def is_held(self) -> bool:
        """Whether this process owns the basedir."""
        return self._lock is not None

    @property
    def is_announced(self) -> bool:
        """Whether the master has said that it has started."""
        return self._owner is not None

    def take(self) -> None:
        """Own the basedir.  Raises MasterRunning where another process does, and OSError."""
        self._lock = OwnerLock(self._files)
        # For Buildbot's commands; twistd has written it where one of these started this process.
        pid, path = str(os.getpid()), self._files.pid_file
        if not path.exists() or path.read_text(encoding="utf-8", errors="replace") != pid:
            path.write_text(pid, encoding="ascii")
            self._wrote_pid_file = True

    def announce(self, url: str | None) -> None:
        """Say that the master has started, and where its page is."""
        self._write(Owner(os.getpid(), time.time(), url))

    def note_url(self, url: str | None) -> None:
        """Say where the page of the running master is from now on."""
        if self._owner is not None:
            self._write(replace(self._owner, url=url))

    def note_outage(self, outage: dict[str, Any] | None) -> None:
        """Say that the database of the running master is away, or is back (None).

        The keys are those of Owner.outage.
        """
        if self._owner is not None:
            self._write(replace(self._owner, outage=outage))

    def _write(self, owner: Owner) -> None:
        if self._lock is not None:
            self._owner = owner
            self._lock.write(owner)

    def release(self) -> None:
        """Own the basedir no more; does nothing where it is not owned."""
        if self._lock is None:
            return
        if self._wrote_pid_file:
            self._files.pid_file.unlink(missing_ok=True)
        self._lock.release()
        self._lock = None
