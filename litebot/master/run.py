"""Runs the master of a basedir in this process: python -m litebot.master.run BASEDIR."""

from __future__ import annotations

import os
import sys

from twisted.scripts import twistd

from litebot.basedir import Basedir
from litebot.errors import LitebotError
from litebot.master import outcome


def main(basedir: str) -> int:
    """Run buildbot.tac under twistd, in the foreground; returns the exit code."""
    files = Basedir(basedir)
    try:
        files.require()
        files.refuse_owner("only one master can run there")
    except LitebotError as error:
        outcome.failed(error)
        print(f"litebot: {error.what}", file=sys.stderr)
        return error.exit_code
    files.pid_file.unlink(missing_ok=True)  # a dead master's: twistd would refuse to start
    os.umask(0o077)  # as under twistd's own daemon
    os.chdir(files.path)
    sys.path.insert(0, str(files.path))
    sys.argv = ["twistd", "--nodaemon", "--no_save", f"--pidfile={files.pid_file.name}"]
    sys.argv += [f"--python={files.tac_file.name}"]
    if os.environ.get("LITEBOT_FOREGROUND"):
        sys.argv += ["--logger=litebot.master.logged.to_stdout"]
    try:
        twistd.run()
    except OSError as error:  # twistd can't write its pid file or its log: a full disk, most often
        where = f" {error.filename}" if error.filename else ""
        outcome.failed(
            LitebotError(
                f"{files.path}:{where} {error.strerror}", f"df {files.path}; ls -ld {files.path}"
            )
        )
    return outcome.exit_status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
