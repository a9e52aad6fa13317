"""Who runs and who listens, read from /proc (Linux); elsewhere the answer is "nobody known"."""

from __future__ import annotations

import errno
import os
import socket
from pathlib import Path


def alive(pid: int) -> bool:
    """Whether a process with this pid runs, whoever owns it.  A zombie does not."""
    try:
        os.kill(pid, 0)
    except OSError as error:
        if error.errno != errno.EPERM:
            return False
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return not Path("/proc/self/stat").exists()  # gone in between, or a system without /proc
    # The name of the program stands in parentheses and may hold anything.
    return stat.rpartition(")")[2].split()[0] not in "ZX"


def working_directory(pid: int) -> Path | None:
    """The directory that a process runs in, or None where that can't be known."""
    try:
        return Path(os.readlink(f"/proc/{pid}/cwd"))
    except OSError:
        return None


def command_of(pid: int) -> str:
    """The name of a process's program, or ""."""
    try:
        return Path(f"/proc/{pid}/comm").read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def descendants(pid: int) -> set[int]:
    """The pids of what a process has started and of what these have, as far as they still run."""
    children: dict[int, set[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            text = stat.read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue  # gone in between
        parent = int(text.rpartition(")")[2].split()[1])
        children.setdefault(parent, set()).add(int(stat.parent.name))
    found, left = set[int](), [pid]
    while left:
        new = children.get(left.pop(), set()) - found
        found |= new
        left += new
    return found


def port_is_free(address: str, port: int) -> bool:
    """Whether a server could listen on this TCP port now."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except OSError as error:
            return error.errno != errno.EADDRINUSE
    return True


def pids_listening(port: int) -> list[int]:
    """The pids that listen on a TCP port, as far as this user may see."""
    return _holders(_listening_inodes(port))


def _listening_inodes(port: int) -> set[str]:
    inodes = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            lines = Path(table).read_text(encoding="ascii").splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            fields = line.split()
            # local address ends in the port in hex; state 0A is LISTEN; field 9 is the inode
            if fields[3] == "0A" and int(fields[1].rsplit(":", 1)[1], 16) == port:
                inodes.add(fields[9])
    return inodes


def _holders(inodes: set[str]) -> list[int]:
    wanted = {f"socket:[{inode}]" for inode in inodes}
    pids = []
    for folder in Path("/proc").glob("[0-9]*/fd"):
        try:
            if any(os.readlink(fd) in wanted for fd in folder.iterdir()):
                pids.append(int(folder.parent.name))
        except OSError:
            continue  # gone in between, or another user's
    return pids
