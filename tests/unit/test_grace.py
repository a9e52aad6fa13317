"""For how long a master that has just connected judges nobody."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest

from litebot.master.cluster.session import MARGIN_S
from litebot.master.cluster.session import grace_s
from litebot.master.db.postgres.server import LONGEST_WAIT_S
from litebot.master.db.postgres.server import Server

ADDRESSES = {"ci1.example.org": ["192.0.2.1"], "ci2.example.org": ["192.0.2.2", "2001:db8::2"]}


@pytest.fixture(autouse=True)
def names(monkeypatch: pytest.MonkeyPatch) -> None:
    """The names that there are."""

    def getaddrinfo(host: str, port: Any, **_: Any) -> list[tuple[Any, ...]]:
        if host not in ADDRESSES:
            raise socket.gaierror
        return [(socket.AF_INET, 0, 0, "", (address, port)) for address in ADDRESSES[host]]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)


@pytest.mark.parametrize(
    ("url", "connect_s"),
    [
        ("postgresql://ci@/ci", 4),
        ("postgresql://ci@/ci?host=/run/postgresql", 4),
        ("postgresql://ci@192.0.2.7/ci", 4),
        ("postgresql://ci@ci1.example.org/ci", 4),
        ("postgresql://ci@ci2.example.org/ci", 8),
        ("postgresql://ci@/ci?host=ci1.example.org:5432&host=ci2.example.org:5433", 12),
        ("postgresql://ci@/ci?host=ci1.example.org&host=gone.example.org&connect_timeout=7", 7),
        ("postgresql://ci@ci2.example.org/ci?connect_timeout=1", 4),
        ("postgresql://ci@gone.example.org/ci", 4),
    ],
)
def test_it_is_what_another_one_needs_to_be_back(url: str, connect_s: int) -> None:
    found = grace_s(Server(url, Path("/nowhere")))
    assert found == LONGEST_WAIT_S + connect_s + MARGIN_S
