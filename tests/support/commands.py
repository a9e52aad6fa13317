"""Runs `litebot` and other commands, and waits for what they do."""

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
    """Skip the test if the machine lacks something, or fail it if LITEBOT_TEST_ALL is 1."""
    if condition:
        return
    if os.environ.get("LITEBOT_TEST_ALL") == "1":
        pytest.fail(f"LITEBOT_TEST_ALL=1, but {reason}", pytrace=False)
    pytest.skip(reason)


def wait_for(condition: Callable[[], T], what: str, timeout_s: float = 30.0) -> T:
    """Call `condition` until its result is true, and return that; fails after `timeout_s`."""
    give_up_at = time.monotonic() + timeout_s
    while not (answer := condition()):
        if time.monotonic() > give_up_at:
            pytest.fail(f"waited {timeout_s:g} s in vain for {what}", pytrace=False)
        time.sleep(LOOK_S)
    return answer


def run(*command: str | Path, timeout_s: float = COMMAND_TIMEOUT_S, **kwargs: Any) -> Done:
    """Run a command to its end and keep what it prints; accepts any exit code."""
    words = [str(word) for word in command]
    kwargs = {"capture_output": True, "text": True, "check": False, **kwargs}
    return subprocess.run(words, timeout=timeout_s, **kwargs)


def begin(*command: str | Path, **kwargs: Any) -> subprocess.Popen[Any]:
    """Start a script of this Python environment, as subprocess.Popen or as a fork.

    It is forked if the environment variables allow that and LITEBOT_TEST_REAL is not 1.
    """
    words = [str(word) for word in command]
    env = kwargs.get("env")
    if _all_real or not server().obeys(dict(os.environ if env is None else env)):
        return subprocess.Popen(words, **kwargs)
    return Forked(words, **kwargs)


_all_real = os.environ.get("LITEBOT_TEST_REAL") == "1"


@contextmanager
def all_real() -> Iterator[None]:
    """Fork no commands until the block ends."""
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
    """Run `litebot` to its end and keep what it prints; accepts any exit code.

    The command is forked, as is a master that it starts: see fork_server and `real_litebot`.
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
    """Do as `litebot`, but execute the command as users do, without a fork."""
    return run(LITEBOT, *arguments, **kwargs)


def succeeded(done: Done) -> Done:
    """Check that a command exited with 0, and return it."""
    assert done.returncode == 0, f"{done.args} exited with {done.returncode}\n{done.stderr}"
    return done


def is_running(pid: int) -> bool:
    """Return whether a process exists and is not just waiting to be reaped."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"
