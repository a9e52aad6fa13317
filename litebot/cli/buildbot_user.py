"""Buildbot's command `user`: manages, in a running master, the users that it knows from changes.

Only the options are Buildbot's own code: the client of Buildbot 4.3 passes Twisted the login as
str, where Twisted needs bytes, so it can never log in.  Source: buildbot/clients/usersclient.py
"""

from __future__ import annotations

from typing import Any

import click

from litebot.errors import LitebotError

REFUSED = b"twisted.cred.error.UnauthorizedLogin"


def buildbot_user(arguments: list[str]) -> None:
    """Send a request to the user manager of a master and print its answer.

    Raises LitebotError if it can't be reached or refuses the login, and click.UsageError for wrong
    arguments.
    """
    from buildbot.process.users.users import encrypt
    from buildbot.scripts.runner import UserOptions
    from twisted.python.usage import UsageError

    from litebot.master.runtime.reactor import run

    options = UserOptions()
    try:
        options.parseOptions(arguments)
    except UsageError as error:
        raise click.UsageError(str(error)) from error
    if options["op"] == "add":
        for user in options["info"]:
            user["identifier"] = min(user.values())  # as Buildbot's client chooses it
    password = options["bb_password"]
    # The arguments of the master's method `commandline`.
    # Source: buildbot/process/users/manual.py
    asked = (
        options["op"],
        options["bb_username"],
        encrypt(password) if password else None,
        options["ids"],
        options["info"],
    )
    print(run(lambda: _ask(options, asked)))


async def _ask(options: Any, asked: tuple[Any, ...]) -> str:
    from twisted.cred.credentials import UsernamePassword
    from twisted.internet import reactor as installed_reactor
    from twisted.internet.error import ConnectError
    from twisted.internet.error import DNSLookupError
    from twisted.spread import pb

    master = options["master"]
    host, _, port = master.rpartition(":")
    login = UsernamePassword(options["username"].encode(), options["passwd"].encode())
    factory = pb.PBClientFactory()
    reactor: Any = installed_reactor
    reactor.connectTCP(host, int(port), factory)
    try:
        remote = await factory.login(login)
        answer: str = await remote.callRemote("commandline", *asked)
    except (ConnectError, DNSLookupError) as error:
        raise LitebotError(
            f"no user manager answers on {master}: {error}",
            "c['user_managers'] in master.cfg names its port",
        ) from error
    except pb.RemoteError as error:
        if error.remoteType != REFUSED:
            raise
        raise LitebotError(
            f"the user manager on {master} refuses the login {options['username']!r}",
            "the username and passwd of c['user_managers'] in master.cfg",
        ) from error
    factory.disconnect()
    return answer
