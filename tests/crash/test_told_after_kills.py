"""Kills between the end of a project's build and what is told of it: it is told later."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.commands import litebot
from support.commands import succeeded
from support.commands import wait_for
from support.forges import CHAT_PATH
from support.forges import TOKEN
from support.forges import forges
from support.killed import Victim
from support.mailbox import mailbox
from support.master import on_both
from support.repositories import Repository


@on_both
@pytest.mark.parametrize("point", ["db.builds.finishBuild:2", "db.buildrequests.complete:2"])
def test_each_is_told_of_an_end_before_a_kill(victim: Victim, tmp_path: Path, point: str) -> None:
    hello = Repository(tmp_path / "team" / "hello")
    with forges() as server, mailbox() as mails:
        for name, value in (("TOKEN", TOKEN), ("CHAT", f"{server.url}{CHAT_PATH}")):
            path = victim.basedir / "secrets" / name
            path.parent.mkdir(mode=0o700, exist_ok=True)
            path.touch(mode=0o600)
            path.write_text(value)
        settings = victim.basedir / "litebot.toml"
        text = settings.read_text().replace('host = "localhost"', 'host = "127.0.0.1"')
        settings.write_text(text.replace("port = 25\n", f"port = {mails.port}\n"))
        victim.write_config("")
        lines = (f"gitea TOKEN {server.url}", "mail team@example.org", "json CHAT")
        tell = [word for line in lines for word in ("--tell", line)]
        succeeded(litebot("project", "add", "--yes", *tell, hello.url, victim.basedir))
        victim.start_to_die(point)
        victim.finished_build("hello")
        hello.commit('steps = ["false"]\n')
        victim.ask_for("hello")
        victim.await_death()
        victim.start()
        victim.await_quiet()
        wait_for(lambda: not victim.rows("SELECT 1 FROM litebot_outbox"), "all to be told", 60)
        assert [each.state for each in server.of("gitea") if each.sha == hello.head][
            -1
        ] == "failure"
        assert server.of("chat")[-1].body["revision"] == hello.head
        assert {each.body["result"] for each in server.of("chat")} == {"success", "failure"}
        assert {each.message["Subject"] for each in mails.received} == {
            "[hello] new failure of main"
        }
