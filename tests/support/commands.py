"""Running `litebot` and other commands, and waiting for what they do."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from typing import TypeVar

import pytest

from support.forks import Forked
from support.forks import server

BIN = Path(sys.executable).parent
LITEBOT = str(BIN / "litebot")
COMMAND_TIMEOUT_S = 60
LOOK_S = 0.02

T = TypeVar("T")
Done = subprocess.CompletedProcess[str]


def require(condition: object, reason: str) -> None:
    """Skip the test where the machine lacks something; fail where LITEBOT_TEST_ALL=1 wants all."""
    if condition:
        return
    if os.environ.get("LITEBOT_TEST_ALL") == "1":
        pytest.fail(f"LITEBOT_TEST_ALL=1, but {reason}", pytrace=False)
    pytest.skip(reason)


def wait_for(condition: Callable[[], T], what: str, timeout_s: float = 30.0) -> T:
    """Ask again and again until the answer is true, and return it; fails after `timeout_s`."""
    give_up_at = time.monotonic() + timeout_s
    while not (answer := condition()):
        if time.monotonic() > give_up_at:
            pytest.fail(f"waited {timeout_s:g} s in vain for {what}", pytrace=False)
        time.sleep(LOOK_S)
    return answer


def run(*command: str | Path, timeout_s: float = COMMAND_TIMEOUT_S, **kwargs: Any) -> Done:
    """Run a command to its end and keep what it prints, whatever it answers."""
    words = [str(word) for word in command]
    kwargs = {"capture_output": True, "text": True, "check": False, **kwargs}
    return subprocess.run(words, timeout=timeout_s, **kwargs)


def begin(*command: str | Path, **kwargs: Any) -> subprocess.Popen[Any]:
    """As subprocess.Popen, for a script of the environment's: a fork where that will do."""
    words = [str(word) for word in command]
    env = kwargs.get("env")
    if _all_real or not server().obeys(dict(os.environ if env is None else env)):
        return subprocess.Popen(words, **kwargs)
    return Forked(words, **kwargs)


_all_real = os.environ.get("LITEBOT_TEST_REAL") == "1"


@contextmanager
def all_real() -> Iterator[None]:
    """Meanwhile nothing is forked."""
    global _all_real
    before = _all_real
    _all_real = True
    try:
        yield
    finally:
        _all_real = before


def litebot(
    *arguments: str | Path,
    timeout_s: float = COMMAND_TIMEOUT_S,
    input: str | None = None,
    **kwargs: Any,
) -> Done:
    """Run `litebot` to its end and keep what it prints, whatever it answers.

    It is forked, and so is the master that it starts: see fork_server.  `real_litebot` is not.
    """
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    if input is not None:
        pipes["stdin"] = subprocess.PIPE
    with begin(LITEBOT, *arguments, **{**pipes, **kwargs}) as process:
        try:
            stdout, stderr = process.communicate(input, timeout_s)
        except BaseException:
            process.kill()
            raise
    return Done(process.args, process.returncode, stdout, stderr)


def real_litebot(*arguments: str | Path, **kwargs: Any) -> Done:
    """As `litebot`, by the command that users run, in a Python of its own."""
    return run(LITEBOT, *arguments, **kwargs)


def succeeded(done: Done) -> Done:
    """The same, once it is sure that it went well."""
    assert done.returncode == 0, f"{done.args} exited with {done.returncode}\n{done.stderr}"
    return done


def is_running(pid: int) -> bool:
    """Whether a process exists that is not just waiting to be reaped."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"
