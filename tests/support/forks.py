"""Starts Python programs as forks of a process that has done their imports: see fork_server."""

from __future__ import annotations

import atexit
import functools
import json
import os
import select
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

PROGRAM = Path(__file__).with_name("fork_server.py")
ANSWER_BYTES = 32
LOOK_S = 0.05
# The beginnings of the names of variables that take effect only when a process starts.
OF_A_NEW_PROCESS = ("LANG", "LC_", "LD_", "MALLOC_", "GLIBC_", "OPENSSL_", "PYTHON")


class ForkServer:
    """The process that forks.  It ends when this process ends, however that happens."""

    def __init__(self) -> None:
        self._env = self._of_a_new_process(dict(os.environ))
        self._requests, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with its:
            self._process = subprocess.Popen(
                [sys.executable, "-P", str(PROGRAM), str(its.fileno())],
                pass_fds=[its.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,  # not used; a file would leave a position behind
            )
        atexit.register(self.end)

    @staticmethod
    def _of_a_new_process(env: dict[str, str]) -> dict[str, str]:
        return {name: value for name, value in env.items() if name.startswith(OF_A_NEW_PROCESS)}

    def obeys(self, env: dict[str, str]) -> bool:
        """Return whether a forked process obeys these variables as a new process would."""
        return self._of_a_new_process(env) == self._env

    def fork(self, asked: dict[str, Any], streams: list[int]) -> tuple[int, socket.socket]:
        """Fork a process; return its pid, and a socket that gets its wait status when it ends."""
        answer, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with its:
            message = json.dumps(asked).encode()
            socket.send_fds(self._requests, [message], [*streams, its.fileno()])
        return receive(answer), answer

    def end(self) -> None:
        self._requests.close()
        self._process.communicate()


def receive(answer: socket.socket) -> int:
    number = answer.recv(ANSWER_BYTES)
    assert number, "the fork server has ended"
    return int(number)


@functools.cache
def server() -> ForkServer:
    """Return the fork server of this process, which is started at its first use."""
    return ForkServer()


def umask() -> int:
    """Return the umask of this process without changing it, as os.umask would."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(status.partition("\nUmask:")[2].split()[0], 8)


class Forked(subprocess.Popen[Any]):
    """A forked Python script, with the interface of Popen and its most common options."""

    _answer: socket.socket

    def _execute_child(
        self,
        args: list[str],
        executable: None,
        preexec_fn: None,
        close_fds: bool,
        pass_fds: tuple[int, ...],
        cwd: str | None,
        env: dict[str, str] | None,
        startupinfo: None,
        creationflags: int,
        shell: bool,
        *pipes_and_rights: Any,
    ) -> None:
        in_, our_in, our_out, out, our_err, err, *rights = pipes_and_rights
        _restore_signals, gid, gids, uid, mask, new_session, *_ = rights
        assert not any((executable, preexec_fn, pass_fds, shell, creationflags, startupinfo))
        assert close_fds
        assert (gid, gids, uid) == (None, None, None)
        asked = {
            "command": args,
            "env": dict(os.environ if env is None else env),
            "cwd": os.path.abspath(cwd or "."),
            "umask": umask() if mask == -1 else mask,
            "new_session": new_session,
        }
        streams = [fd if given == -1 else given for fd, given in enumerate((in_, out, err))]
        self.pid, self._answer = server().fork(asked, streams)
        self._child_created = True
        close: Any = getattr(self, "_close_pipe_fds")  # noqa: B009 (it has no type)
        close(in_, our_in, our_out, out, our_err, err)

    def _internal_poll(self, *_: Any, **__: Any) -> int | None:
        return super()._internal_poll(None, lambda _, flags: self._try_wait(flags, 0))  # type: ignore[misc]

    def _try_wait(self, wait_flags: int, timeout_s: float = LOOK_S) -> tuple[int, int]:
        """Do as os.waitpid; with WNOHANG, wait up to `timeout_s`."""
        if wait_flags & os.WNOHANG and not select.select([self._answer], [], [], timeout_s)[0]:
            return 0, 0
        status = receive(self._answer)
        self._answer.close()
        return self.pid, status
