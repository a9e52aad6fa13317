"""Kills before a build is reported, and servers that are down: the build is reported later."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from http.server import ThreadingHTTPServer
from threading import Thread
from typing import Any

import pytest

from support.commands import succeeded
from support.commands import wait_for
from support.killed import Victim
from support.master import EXCEPTION
from support.master import SUCCESS
from support.master import on_both

CONFIG = """
reporter("mailer", reporters.BuildStatusGenerator(mode="all"))
reporter("pusher", reporters.BuildSetStatusGenerator(mode="all"))
builder("b", shell("{command}"))
"""


def await_told(victim: Victim) -> list[str]:
    """Wait until no report is left to send; return the lines of the reporters, sorted."""
    victim.await_quiet()
    wait_for(lambda: not victim.rows("SELECT 1 FROM litebot_outbox"), "all to be sent", 60)
    return sorted(victim.reported.read_text().splitlines())


@on_both
@pytest.mark.parametrize("point", ["db.builds.finishBuild:1", "db.buildrequests.complete:1"])
def test_each_reporter_hears_of_each_end(victim: Victim, point: str) -> None:
    victim.reported.touch()
    victim.write_config(CONFIG.format(command="true"))
    victim.start_to_die(point)
    victim.ask_for("b")
    victim.await_death()
    victim.start()
    assert set(await_told(victim)) == {f"mailer 1 {SUCCESS}", f"pusher 1 {SUCCESS}"}


@on_both
def test_what_died_is_reported_too(victim: Victim) -> None:
    victim.reported.touch()
    victim.write_config(CONFIG.format(command="kill -9 $PPID"))
    settings = victim.basedir / "litebot.toml"
    text = settings.read_text().replace("max_attempts = 3", "max_attempts = 2")
    settings.write_text(text)
    victim.start()
    victim.ask_for("b")
    victim.await_death()
    victim.start_to_die("db.pool.do:1000000")
    victim.await_death()
    victim.start()
    assert await_told(victim) == [f"mailer 2 {EXCEPTION}", f"pusher 2 {EXCEPTION}"]


@on_both
def test_a_reporter_that_fails_tries_again_over_a_restart(victim: Victim) -> None:
    victim.write_config(CONFIG.format(command="true"))
    victim.start()
    victim.ask_for("b")
    victim.await_quiet()
    wait_for(lambda: len(waiting(victim)) == 2, "both to have failed")
    assert "No such file" in waiting(victim)[0]["error"]
    assert "No such file" in victim.run("status").stdout
    victim.kill()
    victim.reported.touch()
    victim.start()
    assert await_told(victim) == [f"mailer 1 {SUCCESS}", f"pusher 1 {SUCCESS}"]


def test_status_shows_one_failed_report_of_each_reporter(victim: Victim) -> None:
    victim.write_config(CONFIG.format(command="true"))
    victim.start()
    for _ in range(3):
        victim.ask_for("b")
    wait_for(lambda: len(waiting(victim)) == 6, "all to have failed")
    shown = victim.run("status").stdout
    for reporter in ("mailer", "pusher"):
        assert shown.count(f"{reporter} has not reported") == 1
        assert f"and 2 more of {reporter}: litebot report list {victim.basedir}\n" in shown


# With so late a commit, an answer that does not wait for it always comes too early.
COMMITS_LATE = """
from litebot.master import database
database.GROUP_COMMIT_S = 1.0
"""


def test_a_report_can_be_seen_and_dropped(victim: Victim) -> None:
    victim.write_config(CONFIG.format(command="true") + COMMITS_LATE)
    victim.start()
    victim.ask_for("b")
    wait_for(lambda: len(waiting(victim)) == 2, "both to have failed")
    listed = succeeded(victim.run("report")).stdout.splitlines()
    assert len(listed) == 2
    assert "mailer has not reported build id 1 in 1 attempts" in listed[0]
    assert listed[0].endswith("/#/builders/1/builds/1")
    assert listed[1].endswith("/#/buildrequests/1")
    first, second = (line.split()[0] for line in listed)
    left = succeeded(victim.run("report", "--drop", first)).stdout.splitlines()
    assert len(left) == 1
    assert succeeded(victim.run("report", "--drop", second)).stdout == "no report is waiting\n"
    refused = victim.run("report", "--drop", first)
    assert refused.returncode == 1
    assert f"no report with the id {first} is waiting" in refused.stderr


def waiting(victim: Victim) -> list[dict[str, Any]]:
    reports = json.loads(victim.run("status", "--json").stdout)["reports"]
    return [report for report in reports if report["error"]]


AGAIN_AT_ONCE = """
from litebot.master.delivery import outbox
outbox.FIRST_RETRY_S, outbox.LOOK_EVERY_S = 0.1, 0.1
"""
GOOD = 'reporters.BuildStatusGenerator(mode="all")'
BAD = """reporters.BuildStatusGenerator(
    message_formatter=reporters.MessageFormatter(template="{{ build['nothing']['deeper'] }}")
)"""


def report_by(victim: Victim, *generators: str) -> None:
    """Configure one reporter with these generators."""
    victim.write_config(
        AGAIN_AT_ONCE
        + 'builder("b", shell("true"))\n'
        + f'c["services"] = [Reporter(name="mailer", generators=[{", ".join(generators)}])]\n'
    )


@on_both
@pytest.mark.parametrize("generators", [(GOOD, BAD), (BAD, GOOD)], ids=["last", "first"])
def test_a_generator_that_fails_repeats_no_others(
    victim: Victim, generators: tuple[str, str]
) -> None:
    victim.reported.touch()
    report_by(victim, *generators)
    victim.start()
    victim.ask_for("b")
    assert await_told(victim) == [f"mailer 1 {SUCCESS}"]
    assert "UndefinedError" in victim.log


def test_what_is_made_beside_a_generator_that_fails_is_sent_again(victim: Victim) -> None:
    report_by(victim, BAD, GOOD)
    victim.start()
    victim.ask_for("b")
    wait_for(lambda: [r for r in waiting(victim) if r["attempts"] > 5], "it to have failed often")
    assert "No such file" in waiting(victim)[0]["error"]
    victim.reported.touch()
    assert await_told(victim) == [f"mailer 1 {SUCCESS}"]


def test_what_no_generator_makes_is_given_up(victim: Victim) -> None:
    victim.reported.touch()
    report_by(victim, BAD)
    victim.start()
    victim.ask_for("b")
    listed = wait_for(lambda: given_up(victim), "it to be given up")
    assert "in 5 attempts" in listed
    assert "has no attribute 'nothing'" in listed
    victim.kill()
    report_by(victim, GOOD)
    victim.start()
    assert await_told(victim) == [f"mailer 1 {SUCCESS}"]


class Server(ThreadingHTTPServer):
    """Answers each POST with the next of `codes`, and with the last one from then on."""

    def __init__(self, *codes: int) -> None:
        super().__init__(("127.0.0.1", 0), Post)
        self.codes = list(codes)
        self.builds: list[int] = []  # the build ids of all POSTs, whatever the answers


class Post(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        server = self.server
        assert isinstance(server, Server)
        build = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        server.builds.append(build["buildid"])
        code = server.codes.pop(0) if len(server.codes) > 1 else server.codes[0]
        self.send_response(code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Print nothing to stderr."""


@contextmanager
def serving(*codes: int) -> Iterator[Server]:
    with Server(*codes) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def report_to(victim: Victim, server: Server, again_after_s: float = 0.1) -> None:
    """Configure a reporter that pushes the ends of builds to this server."""
    victim.write_config(
        f"""
        from litebot.master.delivery import outbox
        outbox.FIRST_RETRY_S, outbox.LOOK_EVERY_S = {again_after_s}, 0.1

        builder("b", shell("true"))
        c["services"] = [
            reporters.HttpStatusPush(
                "http://127.0.0.1:{server.server_port}",
                generators=[
                    reporters.BuildStatusGenerator(
                        message_formatter=reporters.MessageFormatterFunction(
                            lambda context: {{"buildid": context["build"]["buildid"]}}, "json"
                        )
                    )
                ],
            )
        ]
        """
    )


def test_what_a_server_does_not_take_is_pushed_again(victim: Victim) -> None:
    with serving(500, 503, 200) as server:
        report_to(victim, server)
        victim.start()
        victim.ask_for("b")
        wait_for(lambda: len(server.builds) == 3, "it to be pushed three times")
        wait_for(lambda: not victim.rows("SELECT 1 FROM litebot_outbox"), "that to be noted")
        assert server.builds == [1, 1, 1]


def test_what_a_server_does_not_take_is_pushed_after_a_restart(victim: Victim) -> None:
    with serving(500) as server:
        report_to(victim, server, again_after_s=3600)
        victim.start()
        victim.ask_for("b")
        wait_for(lambda: waiting(victim), "it to have failed")
        (report,) = waiting(victim)
        assert report["error"] == f"127.0.0.1:{server.server_port} answered 500"
        victim.kill()
        assert server.builds == [1]
        server.codes[:] = [500, 200]
        report_to(victim, server)
        victim.start()
        wait_for(lambda: not victim.rows("SELECT 1 FROM litebot_outbox"), "it to be sent")
        assert server.builds == [1, 1, 1]


def test_what_a_server_refuses_is_given_up(victim: Victim) -> None:
    with serving(404) as server:
        report_to(victim, server)
        victim.start()
        victim.ask_for("b")
        wait_for(lambda: len(server.builds) == 5, "it to be pushed five times")
        listed = wait_for(lambda: given_up(victim), "it to be given up")
        assert "in 5 attempts (127.0.0.1" in listed
        assert "answered 404); not again before a restart" in listed
        victim.kill()
        server.codes[:] = [200]
        victim.start()
        wait_for(lambda: not victim.rows("SELECT 1 FROM litebot_outbox"), "it to be sent")
        assert server.builds == [1] * 6


def given_up(victim: Victim) -> str:
    listed = succeeded(victim.run("report")).stdout
    return listed if "not again" in listed else ""
