"""A mail server that takes what masters send, and shows it as messages."""

from __future__ import annotations

import email
import email.policy
import socketserver
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextlib import suppress
from email.message import EmailMessage
from typing import NamedTuple


class Received(NamedTuple):
    """A message, with the addresses of its envelope, and whether it came over TLS."""

    sender: str
    recipients: list[str]
    message: EmailMessage
    is_secured: bool


class MailServer(socketserver.ThreadingTCPServer):
    """Speaks SMTP (RFC 5321); refuses with `refusal`, such as "550 no such user", while it is set.

    With `login`, such as AUTH PLAIN's words, it takes mails of who has sent these alone.  With
    `context` it offers STARTTLS, or speaks TLS from the start with `is_tls`.
    """

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Session)
        self.received: list[Received] = []
        self.refusal: str | None = None
        self.login: str | None = None
        self.context: ssl.SSLContext | None = None
        self.is_tls = False

    @property
    def port(self) -> int:
        port: int = self.server_address[1]
        return port


class Session(socketserver.StreamRequestHandler):
    server: MailServer

    def say(self, *lines: str) -> None:
        self.wfile.write("".join(f"{line}\r\n" for line in lines).encode())

    def secure(self) -> None:
        assert self.server.context is not None
        self.connection = self.server.context.wrap_socket(
            self.request, server_side=True, do_handshake_on_connect=False
        )
        self.connection.do_handshake()
        self.rfile, self.wfile = self.connection.makefile("rb"), self.connection.makefile("wb", 0)

    def handle(self) -> None:
        with suppress(OSError):  # a client goes if it does not trust the certificate
            self.talk()
        self.connection.close()

    def talk(self) -> None:
        if self.server.is_tls:
            self.secure()
        sender, recipients, is_known = "", list[str](), self.server.login is None
        is_secured = self.server.is_tls
        self.say("220 mailbox ESMTP")
        while raw := self.rfile.readline():
            line = raw.decode().rstrip("\r\n")
            word = line.split(" ", 1)[0].upper()
            if word == "EHLO":
                self.say("250-mailbox", "250-AUTH PLAIN" if self.server.login else "250-8BITMIME")
                self.say("250-STARTTLS" if self.server.context else "250-HELP", "250 SIZE")
            elif word == "STARTTLS" and self.server.context:
                self.say("220 go on")
                self.secure()
                is_secured = True
            elif word == "AUTH" and line.split()[1:] == ["PLAIN"]:
                self.say("334 ")
                is_known = self.rfile.readline().decode().strip() == self.server.login
                self.say("235 welcome" if is_known else "535 wrong password")
            elif word == "AUTH":
                is_known = line.split()[-1] == self.server.login
                self.say("235 welcome" if is_known else "535 wrong password")
            elif word == "MAIL" and is_known:
                sender, recipients = line.partition("<")[2].partition(">")[0], []
                self.say("250 ok")
            elif word == "RCPT" and is_known:
                if self.server.refusal:
                    self.say(self.server.refusal)
                else:
                    recipients.append(line.partition("<")[2].partition(">")[0])
                    self.say("250 ok")
            elif word == "DATA" and recipients:
                self.say("354 go on")
                lines = []
                while (data := self.rfile.readline()) not in (b".\r\n", b""):
                    lines.append(data.removeprefix(b".") if data.startswith(b"..") else data)
                text = email.message_from_bytes(b"".join(lines), policy=email.policy.default)
                self.server.received.append(Received(sender, recipients, text, is_secured))
                self.say("250 taken as number 17")
            elif word == "QUIT":
                self.say("221 bye")
                return
            else:
                self.say("250 ok" if word in ("RSET", "NOOP") else "530 not now")


@contextmanager
def mailbox() -> Iterator[MailServer]:
    """Have a mail server answer in threads; it is closed at the end."""
    with MailServer() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
