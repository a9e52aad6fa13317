"""A command at a terminal, whose questions a test answers."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import time
from contextlib import suppress
from typing import Any
from typing import Self

import pytest

from support.commands import begin


class Terminal:
    """Runs a command whose input and output are a terminal; `said` is all that it has shown."""

    def __init__(self, *words: str) -> None:
        self._ours, its = pty.openpty()
        env = {**os.environ, "TERM": "dumb", "COLUMNS": "200"}
        self._process: subprocess.Popen[Any] = begin(
            *words, stdin=its, stdout=its, stderr=its, env=env
        )
        os.close(its)
        self.said = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        os.close(self._ours)

    def await_text(self, text: str, timeout_s: float = 30) -> None:
        """Wait until the command has shown a text."""
        give_up_at = time.monotonic() + timeout_s
        while text not in self.said:
            if time.monotonic() > give_up_at or not self._read(0.1):
                pytest.fail(f"{text!r} is not in what was shown:\n{self.said}", pytrace=False)

    def type(self, text: str) -> None:
        """Type a line."""
        os.write(self._ours, f"{text}\n".encode())

    def end(self) -> int:
        """Wait until the command ends; return its exit code."""
        while self._read(0.1):
            pass
        return self._process.wait(timeout=60)

    def _read(self, wait_s: float) -> bool:
        """Read what is there within some seconds; return whether there may be more."""
        with suppress(OSError):  # nobody has the other end any more
            if not select.select([self._ours], [], [], wait_s)[0]:
                return True
            if part := os.read(self._ours, 4096):
                self.said += part.decode("utf-8", "replace").replace("\r\n", "\n")
                return True
        return False
