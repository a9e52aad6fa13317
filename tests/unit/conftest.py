"""What unit tests do without."""

from __future__ import annotations

import os
import socket
import subprocess
from typing import Any
from typing import NoReturn

import pytest


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail a test that starts a process or talks over a socket: it belongs to integration."""

    def refuse(*args: Any, **kwargs: Any) -> NoReturn:
        pytest.fail("a unit test starts no process and uses no socket of a system's")

    monkeypatch.setattr(subprocess, "Popen", refuse)
    monkeypatch.setattr(os, "fork", refuse)
    for name in ("bind", "connect", "listen"):
        monkeypatch.setattr(socket.socket, name, refuse)
