"""The server that a master's database is on: how to connect to it, and when it is away."""

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
# A peer that is gone without a word is noticed after 3 + 2 * 2 s when nothing is being said, and
# after 8 s when something is.
# Source: https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-KEEPALIVES
OPTIONS = {
    "connect_timeout": CONNECT_TIMEOUT_S,
    "keepalives": 1,
    "keepalives_idle": 3,
    "keepalives_interval": 2,
    "keepalives_count": 2,
    "tcp_user_timeout": 8000,
    "client_encoding": "utf8",
    "autocommit": True,
}
# The same for the server, so that a connection which we have lost holds no locks for long there;
# and no limits that a role or a database has for statements of people.
SETTINGS = """
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
OLDEST = 130000  # as docs/operating.md has it; MATERIALIZED in events.py needs 12

# Not what libpq knows of a connection: a pooler makes that number up.
IDENTIFY = "SELECT pid, backend_start FROM pg_stat_activity WHERE pid = pg_backend_pid()"
# A pooler may have given it to the new connection, or to somebody else, since.
END_FORMER = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE pid = %s AND backend_start = %s AND pid <> pg_backend_pid()
"""

# States in which a server does nothing for anybody, and after which it goes on.  A disk that is
# full is one: there may be space again.
AWAY = {
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
        errors.ReadOnlySqlTransaction,  # after a fail-over this one only follows
    )
}

# Where tcpi_bytes_acked and tcpi_bytes_received are in Linux's struct tcp_info.
# Source: https://github.com/torvalds/linux/blob/master/include/uapi/linux/tcp.h
TCP_INFO_TRAFFIC_AT = 120
TCP_INFO_BYTES = 136

FIRST_WAIT_S = 0.1
LONGEST_WAIT_S = 2.0

C = TypeVar("C", bound=psycopg.Connection[Any])


def words_of(error: BaseException) -> str:
    """What an error of the driver says, in one line."""
    return " ".join(line.strip() for line in str(error).splitlines() if line.strip())


def waits() -> Any:
    """How long to wait before each attempt to connect again."""
    wait_s = FIRST_WAIT_S
    while True:
        yield wait_s
        wait_s = min(2 * wait_s, LONGEST_WAIT_S)


def cut_off(conn: psycopg.Connection[Any]) -> None:
    """Make a connection fail, in whatever thread it is used, as if the server had closed it."""
    with suppress(OSError, psycopg.Error):
        sock = socket.socket(fileno=os.dup(conn.fileno()))
        try:
            sock.shutdown(socket.SHUT_RDWR)
        finally:
            sock.close()


class Traffic(NamedTuple):
    """Bytes of a connection that the other side has acknowledged, and that have come from it."""

    acknowledged: int
    received: int


def traffic(conn: psycopg.Connection[Any]) -> Traffic | None:
    """What the kernel has counted; None where it does not: Linux does, and of TCP only."""
    if sys.platform != "linux":
        return None
    try:
        with socket.socket(fileno=os.dup(conn.fileno())) as sock:
            info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, TCP_INFO_BYTES)
        return Traffic(*struct.unpack_from("=QQ", info, TCP_INFO_TRAFFIC_AT))
    except (OSError, psycopg.Error, struct.error):
        return None


def is_of_use(conn: psycopg.Connection[Any] | None, error: psycopg.Error) -> bool:
    """Whether a connection, on which a statement of its own has failed so, can go on.

    Not where the server only follows another one, which a new connection finds.
    """
    if conn is None or isinstance(error, errors.ReadOnlySqlTransaction):
        return False
    return conn.info.transaction_status == TransactionStatus.IDLE


class Identity(NamedTuple):
    """Of a connection, for the server: its process there, and when that was started."""

    pid: int
    started_at: datetime


def identify(conn: psycopg.Connection[Any]) -> Identity:
    """The identity of a connection.  Raises psycopg.Error."""
    row = conn.execute(IDENTIFY).fetchone()
    if row is None:
        raise psycopg.OperationalError("the server does not know the connection")
    return Identity(*row)


def end_former(conn: psycopg.Connection[Any], former: Identity) -> bool:
    """End what is left in the server of a connection that was lost; whether anything was."""
    return conn.execute(END_FORMER, former).fetchone() is not None


def refuse_shared(server: Server, conn: psycopg.Connection[Any]) -> None:
    """Raise StoreError where the server uses one process for this connection and for another one.

    Nobody may use `conn` meanwhile.  Raises psycopg.Error.
    """
    first = identify(conn)
    with server.connect(psycopg.Connection) as other:
        if identify(other) == first:
            raise server.not_kept()


def refuses(error: psycopg.Error) -> bool:
    """Whether it is a server that says no to a new connection, as where it has too many.

    The driver does not tell why, nor more than the words.
    """
    return "FATAL:" in str(error)


class Server:
    """A database on a server, as litebot.toml names it."""

    def __init__(self, url: str | URL, basedir: Path) -> None:
        """Raises OSError where the password of the basedir can't be read."""
        self.url = make_url(url)
        self.shown = postgres.shown(url)
        self._basedir = basedir
        self._password = postgres.password(basedir)
        made = postgres.driver_url(url)
        self._args, options = PGDialect_psycopg().create_connect_args(made)
        self._options = {**OPTIONS, **options}
        self.application_name: str = options.get("application_name", "litebot")

    def connect(self, kind: type[C]) -> C:
        """A new connection, on which each statement is a transaction of its own.

        Of several hosts that the url names it is to the one that can be written to.
        Raises psycopg.Error; StoreError where the server is too old.
        """
        options = {**self._options, "application_name": self.application_name}
        options.setdefault("target_session_attrs", "read-write")
        with suppress(OSError):  # it may be another one by now
            self._password = postgres.password(self._basedir)
        if self._password is not None:
            options["password"] = self._password
        conn = kind.connect(*self._args, **options)
        if conn.info.server_version < OLDEST:
            raise StoreError(
                f"{self.shown} is Postgres {conn.info.server_version // 10000}; litebot needs 13"
            )
        psycopg.Cursor(conn).execute(SETTINGS)
        return conn

    def longest_connect_s(self) -> int:
        """How long connect() takes where nobody answers: so long for each address of each host.

        Asks for the addresses of names.
        """
        params = conninfo_to_dict(**self._options)
        try:
            attempts = len(conninfo_attempts(params))
        except psycopg.Error:
            attempts = 1
        return attempts * timeout_from_conninfo(params)

    def not_kept(self) -> StoreError:
        """What to tell where a connection is not always the same one for the server."""
        return StoreError(
            f"a pooler at {self.shown} gives connections away between two transactions, and with"
            " them the locks and the notifications that belong to a session",
            "name the server itself in litebot.toml, or have the pooler keep connections for"
            " sessions (PgBouncer: pool_mode = session)",
        )


def away(server: Server, words: str) -> ServerAway:
    """What to tell a visitor."""
    return ServerAway(f"{server.shown} is away: {words}", "try again later")
