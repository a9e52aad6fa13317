"""litebot start, stop and restart"""

from __future__ import annotations

import json
import os
import select
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from litebot.basedir import NAMED_BASEDIR
from litebot.basedir import Basedir
from litebot.cli.common import basedir_argument
from litebot.cli.common import example
from litebot.cli.common import quiet_option
from litebot.cli.common import say
from litebot.cli.common import tell
from litebot.cli.progress import working
from litebot.errors import LitebotError
from litebot.files import open_private
from litebot.master.runtime.outcome import READY_FD
from litebot.permissions import refuse_foreign
from litebot.permissions import written_files
from litebot.process import alive

LAST_LINES = 20


def timeout_option(help_text: str, *more_names: str, **more: Any) -> Callable[[Any], Any]:
    """Return the option --timeout SECONDS, whose value is passed as `timeout_s`."""
    return click.option(
        "--timeout",
        *more_names,
        "timeout_s",
        type=click.FloatRange(min=0, min_open=True),
        default=60.0,
        show_default=True,
        metavar="SECONDS",
        help=help_text,
        **more,
    )


# --start_timeout and START_TIMEOUT are Buildbot's names.
start_timeout = timeout_option(
    "How long to wait for an answer.", "--start_timeout", envvar="START_TIMEOUT"
)
foreground_option = click.option(
    "--foreground", "--nodaemon", is_flag=True, help="Stay in the foreground and log to stdout."
)
clean_option = click.option(
    "--clean", "-c", is_flag=True, help="Let running builds finish first, however long."
)


@example("litebot start ci")
@click.command()
@foreground_option
@start_timeout
@quiet_option
@basedir_argument
def start(basedir: Basedir, foreground: bool, timeout_s: float) -> None:
    """Start the master of BASEDIR; return when it answers, or say why it does not.

    With --foreground, for containers and systemd, this process becomes the master; SIGTERM stops
    it cleanly.
    """
    basedir.require()
    basedir.require_writable()
    refuse_foreign(basedir, written_files(basedir))
    refuse_other_tac(basedir)
    basedir.refuse_owner()
    if foreground:
        _become(basedir)
    began_at = time.monotonic()
    with working(f"starting the master of {basedir.path}"):
        facts = _launch(basedir, timeout_s)
    tell(f"the master answers after {time.monotonic() - began_at:.1f} s, pid {facts['pid']}")
    if facts.get("url"):
        tell(f"  page      {facts['url']}")
        tell(f"  projects  {facts['url']}litebot/")
    tell(f"  log       {basedir.log_file}")
    for note in facts["notes"]:
        say(f"note: {note}")


def _become(basedir: Basedir) -> None:
    """Turn this process into the master.  Raises LitebotError if stdout is closed."""
    if sys.stdout is None:  # one of the master's files would get its descriptor
        raise LitebotError(
            "stdout is closed, and that is where a master in the foreground logs",
            f"litebot start --foreground {basedir.quoted} >/dev/null",
        )
    sys.stdout.flush()
    os.execv(sys.executable, [*_command(basedir), "stdout"])  # noqa: S606 (no shell is wanted)


def refuse_other_tac(basedir: Basedir) -> None:
    """Raise LitebotError if buildbot.tac starts stock Buildbot, or the master of another folder.

    The latter is so in a copy of a basedir if buildbot.tac, as Buildbot writes it, names the
    original.
    """
    text = basedir.tac_file.read_text(encoding="utf-8", errors="replace")
    named = NAMED_BASEDIR.search(text)
    if "litebot.master" not in text:  # a path in it may hold our name
        starts = "stock Buildbot, not litebot"
    elif named and Path(named[2]).resolve() != basedir.path.resolve():
        starts = f"the master of {named[2]}"
    else:
        return
    raise LitebotError(
        f"{basedir.tac_file} starts {starts}", f"litebot upgrade-master {basedir.quoted}"
    )


def _launch(basedir: Basedir, timeout_s: float) -> dict[str, Any]:
    """Start the master in its own process; return the facts that it reports when it answers.

    Raises LitebotError if it fails to start, or does not answer within `timeout_s`.
    """
    reading, writing = os.pipe()
    env = {**os.environ, READY_FD: str(writing)}
    with open(basedir.log_file, "ab", opener=open_private) as log:
        log_start = log.tell()
        process = subprocess.Popen(
            _command(basedir),
            env=env,
            pass_fds=[writing],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    os.close(writing)
    with os.fdopen(reading, encoding="utf-8") as pipe:
        if not select.select([pipe], [], [], timeout_s)[0]:
            raise LitebotError(
                f"the master (pid {process.pid}) does not answer after {timeout_s:g} s; it goes on"
                " starting",
                f"tail -f {shlex.quote(str(basedir.log_file))}",
            )
        line = pipe.readline()
    if not line:
        code = process.wait()
        raise LitebotError(
            f"the master ended with exit code {code} before it answered; it said last:\n"
            + _last_lines(basedir, log_start)
        )
    message = json.loads(line)
    if "failed" in message:
        process.wait()
        raise LitebotError(message["failed"]["what"], message["failed"]["hint"])
    facts: dict[str, Any] = message["ready"]
    return facts


def _command(basedir: Basedir) -> list[str]:
    # -P: a folder named like a module must not be imported from the working directory.
    return [sys.executable, "-P", "-m", "litebot.master.runtime.run", str(basedir.path)]


def _last_lines(basedir: Basedir, log_start: int) -> str:
    with open(basedir.log_file, "rb") as log:
        size = log.seek(0, os.SEEK_END)
        log.seek(log_start if log_start <= size else 0)  # it may have been rotated
        lines = log.read().decode("utf-8", "replace").splitlines()
    return "\n".join(f"  {line}" for line in lines[-LAST_LINES:])


@example("litebot stop ci")
@click.command()
@clean_option
@timeout_option("How long to wait for its end (not with --clean).")
@click.option("--no-wait", is_flag=True, help="Return at once.")
@quiet_option
@basedir_argument
def stop(basedir: Basedir, clean: bool, timeout_s: float, no_wait: bool) -> None:
    """Stop the master of BASEDIR and wait until it is gone; builds that run are retried later."""
    basedir.require()
    if not stop_master(basedir, clean, timeout_s, wait=not no_wait):
        tell(f"no master runs in {basedir.path}")


def stop_master(basedir: Basedir, clean: bool, timeout_s: float, *, wait: bool = True) -> bool:
    """Stop the master; return whether one ran.

    Waits for its end at most `timeout_s`, but without limit if `clean`, and not at all if `wait` is
    False.  Raises LitebotError if it does not end in time, or this user can't stop it.
    """
    owner = basedir.owner()
    if owner is None:
        return False
    if owner.pid <= 0:  # a signal would go to a group of processes
        raise LitebotError(
            f"{basedir.lock_file} is held by a process that has not written its pid into it",
            f"fuser -v {shlex.quote(str(basedir.lock_file))}",
        )
    if not _signal(basedir, owner.pid, signal.SIGUSR1 if clean else signal.SIGTERM):
        return False
    if not wait:
        tell(f"asked the master with pid {owner.pid} to stop")
        return True
    give_up_at = time.monotonic() + timeout_s
    with working(f"stopping the master with pid {owner.pid}"):
        while alive(owner.pid):
            if not clean and time.monotonic() > give_up_at:
                raise LitebotError(
                    f"the master with pid {owner.pid} still runs after {timeout_s:g} s",
                    f"kill -9 {owner.pid}  # or wait; nothing that it acknowledged is lost",
                )
            time.sleep(0.05)
    tell(f"stopped the master with pid {owner.pid}")
    return True


def _signal(basedir: Basedir, pid: int, number: signal.Signals) -> bool:
    """Send a signal; return whether the process existed.  Raises LitebotError if not permitted."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    except PermissionError as error:
        raise LitebotError(
            f"the master of {basedir.path} with pid {pid} belongs to another user; this one"
            f" (uid {os.geteuid()}) may not stop it",
            f"sudo litebot stop {basedir.quoted}",
        ) from error
    return True


@example("litebot restart ci")
@click.command()
@clean_option
@foreground_option
@start_timeout
@quiet_option
@basedir_argument
@click.pass_context
def restart(
    ctx: click.Context, basedir: Basedir, clean: bool, foreground: bool, timeout_s: float
) -> None:
    """Stop the master of BASEDIR if it runs, then start it."""
    basedir.require()
    refuse_other_tac(basedir)  # it must be refused before the master is stopped
    if not stop_master(basedir, clean, timeout_s):
        say(f"no master ran in {basedir.path}; starting one")
    ctx.invoke(start, basedir=basedir, foreground=foreground, timeout_s=timeout_s)
