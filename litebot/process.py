"""Which processes run and listen, read from Linux's /proc; on other systems most are unknown."""

from __future__ import annotations

import errno
import os
import socket
from pathlib import Path


def alive(pid: int) -> bool:
    """Return whether a process with this pid runs, whoever owns it; a zombie does not."""
    try:
        os.kill(pid, 0)
    except OSError as error:
        if error.errno != errno.EPERM:
            return False
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        # Either it has just ended, or this system has no /proc.
        return not Path("/proc/self/stat").exists()
    # The name of the program is in parentheses and may contain any characters.
    return stat.rpartition(")")[2].split()[0] not in "ZX"


def working_directory(pid: int) -> Path | None:
    """Return the working directory of a process, or None if it can't be read."""
    try:
        return Path(os.readlink(f"/proc/{pid}/cwd"))
    except OSError:
        return None


def command_of(pid: int) -> str:
    """Return the name of a process's program, or "" if it can't be read."""
    try:
        return Path(f"/proc/{pid}/comm").read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def command_line_of(pid: int, longest: int = 120) -> str:
    """Return the command line of a process, cut to `longest` characters, or "" if unknown."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return ""
    line = " ".join(word.decode(errors="replace") for word in words).strip()
    return "".join(c if c.isprintable() else "?" for c in line)[:longest]


def locked_by(status: os.stat_result) -> int:
    """Return the pid that holds the flock(2) of a file, or 0 if it can't be found out.

    Source: proc(5), /proc/locks.
    """
    try:
        lines = Path("/proc/locks").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    for line in lines:
        fields = line.split()
        # As in `1: FLOCK ADVISORY WRITE 4121 08:01:131 0 EOF`; one that waits has `->` as field 1.
        if fields[1] == "FLOCK" and fields[5].rpartition(":")[2] == str(status.st_ino):
            return max(int(fields[4]), 0)
    return 0


def descendants(pid: int) -> set[int]:
    """Return the pids of the running children of a process, their children, and so on."""
    children: dict[int, set[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            text = stat.read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue  # it has just ended
        parent = int(text.rpartition(")")[2].split()[1])
        children.setdefault(parent, set()).add(int(stat.parent.name))
    found, unvisited = set[int](), [pid]
    while unvisited:
        new = children.get(unvisited.pop(), set()) - found
        found |= new
        unvisited += new
    return found


def port_is_free(address: str, port: int) -> bool:
    """Return whether a server could listen on this TCP port now."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except OSError as error:
            return error.errno != errno.EADDRINUSE
    return True


def reserve_port(address: str, port: int) -> socket.socket | None:
    """Return a socket that keeps others from this TCP port until it is closed, or None if in use.

    It listens, because Linux gives a port that is only bound to a second socket, too.
    """
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    reserving = socket.socket(family, socket.SOCK_STREAM)
    try:
        reserving.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        reserving.bind((address, port))
        reserving.listen(1)
    except OSError as error:
        reserving.close()
        return None if error.errno == errno.EADDRINUSE else socket.socket(family)
    return reserving


def pids_listening(port: int) -> list[int]:
    """Return the pids that listen on a TCP port, as far as this user may see them."""
    return _pids_with_sockets(_listening_inodes(port))


def _listening_inodes(port: int) -> set[str]:
    inodes = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            lines = Path(table).read_text(encoding="ascii").splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            fields = line.split()
            # Field 1 is the local address, which ends in the port in hex; field 3 is the state, and
            # 0A is LISTEN; field 9 is the inode.
            if fields[3] == "0A" and int(fields[1].rsplit(":", 1)[1], 16) == port:
                inodes.add(fields[9])
    return inodes


def _pids_with_sockets(inodes: set[str]) -> list[int]:
    wanted = {f"socket:[{inode}]" for inode in inodes}
    pids = []
    for folder in Path("/proc").glob("[0-9]*/fd"):
        try:
            if any(os.readlink(fd) in wanted for fd in folder.iterdir()):
                pids.append(int(folder.parent.name))
        except OSError:
            continue  # it has just ended, or belongs to another user
    return pids
