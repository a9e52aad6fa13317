"""Runs the workers in a process of their own: python -m bench.workers PORT FOLDER."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from buildbot_worker.bot import Worker
from twisted.application import service
from twisted.internet import reactor as installed_reactor

from bench.configuration import PASSWORD
from bench.configuration import WORKERS
from bench.orphans import end_with_parent

reactor: Any = installed_reactor


def main() -> None:
    """Connect WORKERS to the master on PORT of this machine; runs until the process is killed."""
    end_with_parent()
    port, folder = int(sys.argv[1]), Path(sys.argv[2])
    parent = service.MultiService()
    for name in WORKERS:
        (folder / name).mkdir(parents=True, exist_ok=True)
        worker = Worker("127.0.0.1", port, name, PASSWORD, str(folder / name), keepalive=600)
        worker.setServiceParent(parent)
    reactor.callWhenRunning(parent.startService)
    reactor.run()


if __name__ == "__main__":
    main()
