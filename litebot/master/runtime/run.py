"""The process of a master: python -m litebot.master.runtime.run BASEDIR [stdout]."""

from __future__ import annotations

import os
import sys

from litebot.basedir import Basedir
from litebot.basedir import refused_by_system
from litebot.errors import LitebotError
from litebot.master.runtime import memory
from litebot.master.runtime import outcome


def main(basedir: str, log_to: str = "twistd.log") -> int:
    """Run buildbot.tac under twistd, in the foreground, and return the exit code.

    The log goes where buildbot.tac sends it, or to stdout if `log_to` is "stdout".
    """
    files = Basedir(basedir)
    try:
        files.require()
        files.refuse_owner()
    except LitebotError as error:
        outcome.failed(error)
        print(f"litebot: {error.what}", file=sys.stderr)
        return error.exit_code
    os.umask(0o077)  # twistd sets the same when it makes itself a daemon
    os.chdir(files.path)
    memory.put_off()  # the master turns the collector on again
    from twisted.scripts import twistd

    sys.path.insert(0, str(files.path))
    # twistd writes no pid file: only the master that owns the basedir writes and removes it.
    sys.argv = ["twistd", "--nodaemon", "--no_save", "--pidfile="]
    if log_to == "stdout":
        sys.argv += ["--logger=litebot.master.runtime.error_log.to_stdout"]
    sys.argv += [f"--python={files.tac_file.name}"]
    try:
        twistd.run()
    except OSError as error:  # most often the log can't be written, as the disk is full
        outcome.failed(refused_by_system(files.path, error))
    return outcome.exit_status


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
