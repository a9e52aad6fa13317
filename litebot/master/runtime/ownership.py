"""The owner's lock and the pid file, by which this process is the master of a basedir."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from typing import Any

from litebot.basedir import Basedir
from litebot.basedir import Owner
from litebot.basedir import OwnerLock
from litebot.files import open_private


class Ownership:
    """The owner's lock of a basedir, whose file describes the master for `litebot status`."""

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
        """Whether announce() was called, when the master had started."""
        return self._owner is not None

    def take(self) -> None:
        """Take the lock and write the pid file.

        Raises MasterRunning if another process has the lock, and OSError.
        """
        self._lock = OwnerLock(self._files)
        # Buildbot's commands need it.  If one of these started this process, twistd has written it.
        pid, path = str(os.getpid()), self._files.pid_file
        if not path.exists() or path.read_text(encoding="utf-8", errors="replace") != pid:
            with open(path, "w", encoding="ascii", opener=open_private) as file:
                file.write(pid)
            self._wrote_pid_file = True

    def announce(self, url: str | None) -> None:
        """Record that the master has started, and the URL of its page."""
        self._write(Owner(os.getpid(), time.time(), url))

    def note_url(self, url: str | None) -> None:
        """Record a new URL of the running master's page."""
        if self._owner is not None:
            self._write(replace(self._owner, url=url))

    def note_outage(self, outage: dict[str, Any] | None) -> None:
        """Record that the database of the running master is away, or with None that it is back.

        The keys are those of Owner.outage.
        """
        if self._owner is not None:
            self._write(replace(self._owner, outage=outage))

    def _write(self, owner: Owner) -> None:
        if self._lock is not None:
            self._owner = owner
            self._lock.write(owner)

    def release(self) -> None:
        """Release the lock, and remove the pid file if take() wrote it.

        Does nothing if the lock is not held.
        """
        if self._lock is None:
            return
        if self._wrote_pid_file:
            self._files.pid_file.unlink(missing_ok=True)
        self._lock.release()
        self._lock = None
