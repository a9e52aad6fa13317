"""Workers in processes of their own."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from contextlib import suppress
from pathlib import Path

from support.commands import BIN
from support.commands import begin


@contextmanager
def remote_worker(
    folder: Path, where: str, *options: str, **env: str
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a worker named "remote" in a process of its own until the block ends.

    `where` is the address of its master, `options` are those of create-worker, and `env` are
    variables of its process.
    """
    command = BIN / "buildbot-worker"
    names = (str(folder), where, "remote", "workerpw")
    assert begin(command, "create-worker", "--quiet", *options, *names).wait() == 0
    process = begin(
        *(command, "start", "--nodaemon", folder),
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
