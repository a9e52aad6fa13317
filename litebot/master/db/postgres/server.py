"""The server of a master's database: how to connect to it, and which errors mean an outage."""

from __future__ import annotations

import os
import socket
import struct
import sys
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any
from typing import NamedTuple
from typing import TypeVar

import psycopg
from psycopg import errors
from psycopg.conninfo import conninfo_attempts
from psycopg.conninfo import conninfo_to_dict
from psycopg.conninfo import timeout_from_conninfo
from psycopg.pq import TransactionStatus
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg
from sqlalchemy.engine import URL
from sqlalchemy.engine import make_url

from litebot.errors import ServerAway
from litebot.errors import StoreError
from litebot.master.db import postgres

CONNECT_TIMEOUT_S = 4
# A peer that vanishes is noticed after 3 + 2 * 2 s if the connection is idle, and after 8 s if data
# are being sent.
# Source: https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-KEEPALIVES
CONNECT_OPTIONS = {
    "connect_timeout": CONNECT_TIMEOUT_S,
    "keepalives": 1,
    "keepalives_idle": 3,
    "keepalives_interval": 2,
    "keepalives_count": 2,
    "tcp_user_timeout": 8000,
    "client_encoding": "utf8",
    "autocommit": True,
}
# The same on the server's side, so that a connection that we lost does not keep its locks for long.
# Limits that a role or a database sets for the statements of people are switched off.
SESSION_SETTINGS = """
SELECT set_config('tcp_keepalives_idle', '3', false),
       set_config('tcp_keepalives_interval', '2', false),
       set_config('tcp_keepalives_count', '2', false),
       set_config('idle_in_transaction_session_timeout', '60000', false),
       set_config('statement_timeout', '0', false),
       set_config('lock_timeout', '0', false),
       CASE WHEN current_setting('synchronous_commit') = 'off'
            THEN set_config('synchronous_commit', 'on', false) END,
       CASE WHEN current_setting('server_version_num')::int >= 140000
            THEN set_config('client_connection_check_interval', '2000', false) END,
       CASE WHEN current_setting('server_version_num')::int >= 140000
            THEN set_config('idle_session_timeout', '0', false) END,
       CASE WHEN current_setting('server_version_num')::int >= 170000
            THEN set_config('transaction_timeout', '0', false) END
"""
OLDEST_SERVER_VERSION = 130000  # see docs/guide/postgres.md; MATERIALIZED in events.py needs 12

# The pid that libpq knows of a connection can't be used: a pooler invents it.
IDENTIFY = "SELECT pid, backend_start FROM pg_stat_activity WHERE pid = pg_backend_pid()"
# A pooler may have given the process to the new connection since then, or to somebody else.
END_FORMER = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE pid = %s AND backend_start = %s AND pid <> pg_backend_pid()
"""

# Errors of a server that can't work now, but may be able to later.  A full disk is one of them:
# space may be freed.
AWAY_SQLSTATES = {
    error.sqlstate
    for error in (
        errors.AdminShutdown,
        errors.CrashShutdown,
        errors.CannotConnectNow,
        errors.DatabaseDropped,
        errors.IdleSessionTimeout,
        errors.IdleInTransactionSessionTimeout,
        errors.TooManyConnections,
        errors.DiskFull,
        errors.ReadOnlySqlTransaction,  # after a fail-over this server is a standby
    )
}

# Where tcpi_bytes_acked and tcpi_bytes_received are in Linux's struct tcp_info.
# Source: https://github.com/torvalds/linux/blob/master/include/uapi/linux/tcp.h
TCP_INFO_TRAFFIC_AT = 120
TCP_INFO_BYTES = 136

FIRST_WAIT_S = 0.1
LONGEST_WAIT_S = 2.0

C = TypeVar("C", bound=psycopg.Connection[Any])


def one_line(error: BaseException) -> str:
    """Return the message of an error of the driver, in one line."""
    return " ".join(line.strip() for line in str(error).splitlines() if line.strip())


def reconnect_delays() -> Any:
    """Yield how many seconds to wait before each attempt to connect again."""
    wait_s = FIRST_WAIT_S
    while True:
        yield wait_s
        wait_s = min(2 * wait_s, LONGEST_WAIT_S)


def cut_off(conn: psycopg.Connection[Any]) -> None:
    """Make a connection fail as if the server had closed it, in whatever thread it is in use."""
    with suppress(OSError, psycopg.Error):
        sock = socket.socket(fileno=os.dup(conn.fileno()))
        try:
            sock.shutdown(socket.SHUT_RDWR)
        finally:
            sock.close()


class Traffic(NamedTuple):
    """The bytes of a connection that its peer has acknowledged, and those received from it."""

    acknowledged: int
    received: int


def traffic(conn: psycopg.Connection[Any]) -> Traffic | None:
    """Return the kernel's counts, or None: only Linux has them, and only for TCP."""
    if sys.platform != "linux":
        return None
    try:
        with socket.socket(fileno=os.dup(conn.fileno())) as sock:
            info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, TCP_INFO_BYTES)
        return Traffic(*struct.unpack_from("=QQ", info, TCP_INFO_TRAFFIC_AT))
    except (OSError, psycopg.Error, struct.error):
        return None


def is_usable_after(conn: psycopg.Connection[Any] | None, error: psycopg.Error) -> bool:
    """Whether a connection in autocommit mode can still be used after a statement failed so.

    It can't if the server is a standby; a new connection finds the primary.
    """
    if conn is None or isinstance(error, errors.ReadOnlySqlTransaction):
        return False
    return conn.info.transaction_status == TransactionStatus.IDLE


class Identity(NamedTuple):
    """How the server knows a connection: by its process, and when that was started."""

    pid: int
    started_at: datetime


def identify(conn: psycopg.Connection[Any]) -> Identity:
    """Return the identity of a connection.  Raises psycopg.Error."""
    row = conn.execute(IDENTIFY).fetchone()
    if row is None:
        raise psycopg.OperationalError("the server does not know the connection")
    return Identity(*row)


def end_former(conn: psycopg.Connection[Any], former: Identity) -> bool:
    """End the server's process of a lost connection, and return whether it was still there.

    Raises psycopg.Error.
    """
    return conn.execute(END_FORMER, former).fetchone() is not None


def refuse_shared(server: Server, conn: psycopg.Connection[Any]) -> None:
    """Raise StoreError if the server uses one process for this connection and for another one.

    Nobody may use `conn` meanwhile.  Raises psycopg.Error.
    """
    first = identify(conn)
    with server.connect(psycopg.Connection) as other:
        if identify(other) == first:
            raise server.pooler_error()


def is_refused_by_server(error: psycopg.Error) -> bool:
    """Whether a running server refused a new connection, for instance because it has too many.

    The driver gives no error code for that, only the message.
    """
    return "FATAL:" in str(error)


class Server:
    """A database on a server, with the url that litebot.toml has."""

    def __init__(self, url: str | URL, basedir: Path) -> None:
        """Raises OSError if the file with the password can't be read."""
        self.url = make_url(url)
        self.shown = postgres.shown(url)
        self._basedir = basedir
        self._password = postgres.password(basedir)
        made = postgres.driver_url(url)
        self._args, options = PGDialect_psycopg().create_connect_args(made)
        self._options = {**CONNECT_OPTIONS, **options}
        self.application_name: str = options.get("application_name", "litebot")

    def connect(self, kind: type[C]) -> C:
        """Return a new connection, on which each statement is a transaction of its own.

        If the url names several hosts, it connects to the one that accepts writes.  Raises
        psycopg.Error, and StoreError if the server is too old.
        """
        options = {**self._options, "application_name": self.application_name}
        options.setdefault("target_session_attrs", "read-write")
        with suppress(OSError):  # the password may have been changed
            self._password = postgres.password(self._basedir)
        if self._password is not None:
            options["password"] = self._password
        conn = kind.connect(*self._args, **options)
        if conn.info.server_version < OLDEST_SERVER_VERSION:
            raise StoreError(
                f"{self.shown} is Postgres {conn.info.server_version // 10000}; litebot needs 13"
            )
        psycopg.Cursor(conn).execute(SESSION_SETTINGS)
        return conn

    def longest_connect_s(self) -> int:
        """Return how long connect() takes if nobody answers: the timeout for each address.

        Resolves the names of hosts.
        """
        params = conninfo_to_dict(**self._options)
        try:
            attempts = len(conninfo_attempts(params))
        except psycopg.Error:
            attempts = 1
        return attempts * timeout_from_conninfo(params)

    def pooler_error(self) -> StoreError:
        """Return the error for a pooler that changes the server's process of a connection."""
        return StoreError(
            f"a pooler at {self.shown} gives connections away between two transactions, and with"
            " them the locks and the notifications that belong to a session",
            "name the server itself in litebot.toml, or have the pooler keep connections for"
            " sessions (PgBouncer: pool_mode = session)",
        )


def away_error(server: Server, words: str) -> ServerAway:
    """Return the error for a request that can't be answered while the server is away."""
    return ServerAway(f"{server.shown} is away: {words}", "try again later")
