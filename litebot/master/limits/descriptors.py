"""File descriptors: enough for many connections, and for builds in any case.

A login shell gives a process 1,024 descriptors, and each connection takes one, or two while a large
body arrives.  Without any left the master can start no command and accept no connection.
"""

from __future__ import annotations

import functools
import os
import resource

# What a master needs at the most, unless more connections are allowed.  Not as many as the system
# gives: some programs close every descriptor that they might have before they begin to work.
ENOUGH = 8192
# The part of all descriptors that the connections to one port may have, 1 in so many: the body of a
# request may take another one, and a third stays for files, pipes of commands and the database.
SHARE = 3


def raise_limit(connections: int) -> None:
    """Raise the soft limit to what so many connections need; what is forked gets the old one back.

    Commands of builds are forked: some programs use select(), which has a limit of 1,024.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = max(ENOUGH, SHARE * connections)
    wanted = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    os.register_at_fork(after_in_child=functools.partial(_restore, soft, wanted, hard))


def _restore(soft: int, raised: int, hard: int) -> None:
    """Lower the limit in a child, unless the child could then open nothing before it executes.

    It inherits the master's descriptors, and has to list them to close them.
    """
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    try:
        os.close(os.open(os.devnull, os.O_RDONLY))
    except OSError:
        resource.setrlimit(resource.RLIMIT_NOFILE, (raised, hard))


def for_connections() -> int:
    """How many descriptors the connections to one port may have."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(1, (ENOUGH if soft == resource.RLIM_INFINITY else soft) // SHARE)
