"""Forks commands and masters from one process that has imported what they need.

This is a program of its own, which `support.forks` starts and sends requests to.  A short command
spends nearly all of its time in imports, and the start of a master most of it.  In all else a
forked process is a real one: it has its own pid, environment, working directory, umask and standard
streams, and runs the same script, or the same module with `-m`, to the same exit code.

The imports make Twisted's reactor, whose descriptors all forked processes would share.  So each
forked process closes them and initializes the reactor again.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import pkgutil
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO
from typing import Any
from typing import NoReturn

LARGEST_BYTES = 1 << 18  # of a message
STREAMS = 3
PACKAGES = ("litebot.cli", "litebot.master", "litebot.store", "buildbot.data")
# Modules that a running master imports late, and those that a master.cfg imports most often.
MODULES = (
    "buildbot.monkeypatches.servicechecks",
    "buildbot.process.factory",
    "buildbot.reporters.base",
    "buildbot.schedulers.basic",
    "buildbot.schedulers.forcesched",
    "buildbot.schedulers.triggerable",
    "buildbot.steps.download_secret_to_worker",
    "buildbot.steps.shell",
    "buildbot.steps.source.git",
    "buildbot.steps.source.svn",
    "buildbot.worker.protocols.null",
    "buildbot.www.plugin",
    "buildbot_console_view",
    "buildbot_grid_view",
    "buildbot_waterfall_view",
    "buildbot_worker.bot",
    "buildbot_www",
    "rich.progress",
    "twisted.scripts.twistd",
    "twisted.web.static",
)

path_at_start = list(sys.path)


def reactor() -> Any:
    from twisted.internet import reactor as installed

    return installed


@dataclass(frozen=True)
class Task:
    """What a forked process is to become; `streams` and `kept` are descriptors.

    `command` is a Python script and its arguments, or the interpreter with -P, -m and a module.
    """

    command: Sequence[str]
    env: dict[str, str]
    streams: Sequence[int]
    kept: Sequence[int] = ()
    cwd: str | None = None
    umask: int | None = None
    new_session: bool = False

    @property
    def is_module(self) -> bool:
        return self.command[1:3] == ["-P", "-m"]

    def become(self) -> None:
        """Do what subprocess and exec do before a program begins."""
        for number in signal.valid_signals():
            if callable(signal.getsignal(number)):
                signal.signal(number, signal.SIG_DFL)
        signal.set_wakeup_fd(-1)
        if self.new_session:
            os.setsid()
        for target, source in enumerate(self.streams):
            os.dup2(source, target)
        # Collect now what closes its descriptor when it is collected: later, the same number may
        # be another file's.
        reactor()._poller.close()
        gc.collect()
        first = STREAMS
        for fd in sorted(self.kept):
            os.closerange(first, fd)
            first = fd + 1
        os.closerange(first, os.sysconf("SC_OPEN_MAX"))
        if self.cwd is not None:
            os.chdir(self.cwd)
        if self.umask is not None:
            os.umask(self.umask)
        os.environ.clear()
        os.environ.update(self.env)
        time.tzset()

    def start_python(self) -> None:
        """Do what Python does before it runs a program."""
        if signal.getsignal(signal.SIGINT) == signal.SIG_DFL:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        for stream in (sys.stdout, sys.stderr):
            is_line_buffered = stream is sys.stderr or stream.isatty()
            stream.reconfigure(line_buffering=is_line_buffered)  # type: ignore[union-attr]
        sys.path[:] = path_at_start
        gc.enable()
        reactor().__init__()

    def run(self) -> NoReturn:
        """Run the program to its end."""
        if self.is_module:
            name = self.command[3]
            sys.modules.pop(name, None)  # it was imported under its name, but runs as __main__
            sys.argv = [name, *self.command[4:]]
            runpy.run_module(name, run_name="__main__", alter_sys=True)
        else:
            script = self.command[0]
            sys.argv = list(self.command)
            sys.path.insert(0, str(Path(script).parent))
            runpy.run_path(script, run_name="__main__")
        sys.exit()


class Replaced(BaseException):
    """Raised when this process is to become another program, to unwind what it ran before."""

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        self.task = task


# how a command starts a master


class Child:
    """A process that a command has started, with as much of Popen as the command uses."""

    def __init__(self, pid: int) -> None:
        self.pid = pid

    def wait(self) -> int:
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


real_popen = subprocess.Popen
real_execv = os.execv


def is_master(command: Sequence[str]) -> bool:
    return list(command[:3]) == [sys.executable, "-P", "-m"] and command[3].startswith("litebot.")


def spawn(command: Any, **options: Any) -> Any:
    """Replace subprocess.Popen: fork if the command is a master's."""
    if not is_master(command) or threading.active_count() > 1:
        return real_popen(command, **options)
    return fork_master(command, **options)


def fork_master(
    command: Sequence[str],
    *,
    env: dict[str, str],
    pass_fds: Sequence[int],
    stdin: int,
    stdout: IO[bytes],
    stderr: IO[bytes],
    start_new_session: bool,
) -> Child:
    """Do as subprocess.Popen, with just the arguments that `litebot start` uses."""
    assert stdin == subprocess.DEVNULL
    if pid := os.fork():
        return Child(pid)
    nothing = os.open(os.devnull, os.O_RDWR)
    streams = (nothing, os.dup(stdout.fileno()), os.dup(stderr.fileno()))
    raise Replaced(Task(command, env, streams, pass_fds, new_session=start_new_session))


def replace(path: str, command: list[str]) -> None:
    """Replace os.execv: become a master without executing Python again."""
    if not is_master(command):
        real_execv(path, command)
    streams = [os.dup(fd) for fd in range(STREAMS)]
    raise Replaced(Task(command, dict(os.environ), streams))


# the server


def import_all() -> None:
    """Import what commands and masters use; starts no thread and leaves no descriptor open."""
    for package in PACKAGES:
        found = importlib.import_module(package)
        for module in pkgutil.walk_packages(found.__path__, f"{package}."):
            importlib.import_module(module.name)
    for name in MODULES:
        importlib.import_module(name)
    assert "alembic" not in sys.modules, "a master does without it"
    assert threading.active_count() == 1
    assert not reactor().getDelayedCalls()
    assert reactor().getReaders() == [reactor().waker]


class Server:
    """Forks a process for each request, and answers with its pid and, at its end, its status."""

    def __init__(self, requests: socket.socket) -> None:
        self._requests = requests
        self._waiting: dict[int, socket.socket] = {}
        self._ended, self._on_end = socket.socketpair()
        for end in (self._ended, self._on_end):
            end.setblocking(False)
        self._on_interrupt = signal.getsignal(signal.SIGINT)

    def serve(self) -> Task | None:
        """Serve requests; return a task in each forked process, None when pytest has ended."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interrupt is for the forked processes
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._on_end.fileno(), warn_on_full_buffer=False)
        while True:
            ready, _, _ = select.select([self._requests, self._ended], [], [])
            if self._ended in ready:
                with suppress(BlockingIOError):
                    self._ended.recv(LARGEST_BYTES)
                self._reap()
            if self._requests in ready:
                message, fds, _, _ = socket.recv_fds(self._requests, LARGEST_BYTES, STREAMS + 1)
                if not message:
                    return None
                if task := self._fork(json.loads(message), fds):
                    return task

    def _fork(self, asked: dict[str, Any], fds: Sequence[int]) -> Task | None:
        *streams, answer = fds
        pid = os.fork()
        if not pid:
            self._close()
            os.close(answer)
            return Task(**asked, streams=streams)
        for fd in streams:
            os.close(fd)
        self._waiting[pid] = socket.socket(fileno=answer)
        self._tell(self._waiting[pid], pid)
        return None

    def _close(self) -> None:
        for part in (self._requests, self._ended, self._on_end, *self._waiting.values()):
            part.close()
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGINT, self._on_interrupt)

    def _reap(self) -> None:
        with suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                pid, status = ended
                with self._waiting.pop(pid) as answer:
                    self._tell(answer, status)

    def _tell(self, answer: socket.socket, number: int) -> None:
        with suppress(OSError):  # the client has closed its end
            answer.send(json.dumps(number).encode())


def main() -> None:
    import_all()
    gc.collect()
    gc.freeze()  # forked processes then share these pages for longer
    task = Server(socket.socket(fileno=int(sys.argv[1]))).serve()
    while task is not None:
        task.become()
        task.start_python()
        subprocess.Popen = real_popen if task.is_module else spawn  # type: ignore[misc,assignment]
        os.execv = real_execv if task.is_module else replace  # type: ignore[assignment]
        try:
            task.run()
        except Replaced as replaced:
            task = replaced.task


if __name__ == "__main__":
    main()
