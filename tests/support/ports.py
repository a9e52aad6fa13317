"""TCP ports that tests use."""

from __future__ import annotations

import itertools
import os
import socket
from contextlib import suppress

FIRST_PORT = 12000
PORTS = 1000  # of each process

_ports = itertools.count(os.getpid())  # another run may be under way


def free_ports(count: int) -> list[int]:
    """TCP ports on the loopback address where nobody listens, and which nobody else is given.

    They are below those that a system chooses itself, and each process of a run has its own.
    """
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    found: list[int] = []
    while len(found) < count:
        port = FIRST_PORT + worker * PORTS + next(_ports) % PORTS
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            found.append(port)
    return found
