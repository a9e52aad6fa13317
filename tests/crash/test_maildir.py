"""Kills while mails become changes: each mail becomes a change once."""

from __future__ import annotations

from collections import Counter

from support.commands import wait_for
from support.killed import Victim
from support.master import on_both
from support.sources import changes
from support.sources import die

MAILDIR = """
from buildbot.changes.mail import MaildirSource


class Subjects(MaildirSource):
    pollInterval = 1

    def parse(self, message, prefix=None):
        if message["subject"]:
            return "git", {"author": message["from"], "comments": message["subject"]}


c["change_source"] = Subjects(os.path.join(basedir, "mail"))
builder("b", shell("true"))
"""


class Maildir:
    """A folder of mails that a master reads."""

    def __init__(self, victim: Victim) -> None:
        self.path = victim.basedir / "mail"
        for folder in ("new", "cur", "tmp"):
            (self.path / folder).mkdir(parents=True)

    def send(self, name: str, text: bytes) -> None:
        (self.path / "tmp" / name).write_bytes(text)
        (self.path / "tmp" / name).rename(self.path / "new" / name)

    def names(self, folder: str) -> set[str]:
        return {path.name for path in (self.path / folder).iterdir()}


def mail(subject: str) -> bytes:
    return f"From: ada@example.org\nSubject: {subject}\n\nText.\n".encode()


@on_both
def test_a_mail_is_moved_when_its_change_is_stored_and_that_is_once(victim: Victim) -> None:
    maildir = Maildir(victim)
    victim.write_config(MAILDIR)
    for name in ("one", "two"):
        maildir.send(name, mail(name))
    die(victim, "db.changes.addChanges:1")  # before the mail is moved
    assert len(maildir.names("new")) == 2
    victim.start()
    maildir.send("three", mail("one"))  # another mail with the same text
    wait_for(lambda: not maildir.names("new"), "the mails to be moved")
    assert maildir.names("cur") == {"one", "two", "three"}
    assert changes(victim) == Counter({"one": 2, "two": 1})


def test_a_mail_is_not_moved_before_its_change_is_stored(victim: Victim) -> None:
    maildir = Maildir(victim)
    victim.write_config(MAILDIR)
    maildir.send("one", mail("one"))
    die(victim, "db.users.findUserByAttr:1")  # the mail is read, its change not yet stored
    victim.start()
    wait_for(lambda: maildir.names("cur"), "the mail to be moved")
    assert changes(victim) == Counter({"one": 1})


def test_a_mail_that_is_no_change_is_moved_and_one_that_is_unreadable_stays(
    victim: Victim,
) -> None:
    maildir = Maildir(victim)
    victim.write_config(MAILDIR)
    maildir.send("nothing", b"From: ada@example.org\n\nText.\n")
    maildir.send("latin", mail("one").replace(b"Text", b"\xe9"))
    victim.start()
    wait_for(lambda: maildir.names("cur") == {"nothing"}, "the mail to be moved")
    wait_for(lambda: "while reading 'latin' from maildir" in victim.log, "the log to say so")
    assert maildir.names("new") == {"latin"}
    assert not changes(victim)
