"""Sends HTTP requests from a process of its own, so that the master's CPU time does not include it.

The program reads one plan as JSON from stdin and prints a list of answers as JSON:
python -m bench.http_client < plan.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from dataclasses import dataclass
from http.client import HTTPConnection
from urllib.parse import urlencode

from twisted.internet import threads

from bench.configuration import PROJECT

TIMEOUT_S = 120
# More than a browser opens to one host.
CONNECTIONS = 8


@dataclass(frozen=True)
class Plan:
    """`count` requests to the paths in turn.

    One is sent every `every_s`; if that is None, each is sent after the answer to the one before.
    With `changes` each is a POST of a new change to the change hook.
    """

    port: int
    count: int
    paths: tuple[str, ...] = ("/change_hook/base",)
    every_s: float | None = None
    changes: bool = False


@dataclass(frozen=True)
class Answer:
    """One request and its times on the monotonic clock, which is the same in all processes.

    `sent_at` is just before the connection, `answered_at` when the last byte has come.
    """

    path: str
    status: int
    sent_at: float
    answered_at: float

    @property
    def took_s(self) -> float:
        """How long the client waited for the answer."""
        return self.answered_at - self.sent_at


async def send(plan: Plan) -> list[Answer]:
    """Run a client process to its end while the reactor goes on, and return the answers.

    Raises RuntimeError if an answer is not a 2xx.
    """
    output = await threads.deferToThread(
        subprocess.run,
        [sys.executable, "-m", "bench.http_client"],
        input=json.dumps(asdict(plan)),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    answers = [Answer(**answer) for answer in json.loads(output.stdout)]
    for answer in answers:
        if not 200 <= answer.status < 300:
            raise RuntimeError(f"{answer.path}: HTTP status {answer.status}")
    return answers


def _change(number: int) -> str:
    return urlencode(
        {
            "project": PROJECT,
            "author": "A Committer <committer@example.org>",
            "comments": "a change of the benchmark's",
            "revision": f"{number:040x}",
            "branch": "main",
            "repository": "https://git.example.org/bench",
            "files": json.dumps(["src/one.py", "src/two.py"]),
        }
    )


def _request(plan: Plan, number: int, start_at: float) -> Answer:
    path = plan.paths[number % len(plan.paths)]
    body, headers = None, {}
    if plan.changes:
        body = _change(number)
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
    time.sleep(max(0.0, start_at - time.monotonic()))
    sent_at = time.monotonic()
    connection = HTTPConnection("127.0.0.1", plan.port, timeout=TIMEOUT_S)
    connection.request("POST" if plan.changes else "GET", path, body, headers)
    response = connection.getresponse()
    response.read()
    answered_at = time.monotonic()
    connection.close()
    return Answer(path, response.status, sent_at, answered_at)


def main() -> None:
    """Carry out the plan on stdin."""
    plan = Plan(**json.load(sys.stdin))
    began_at = time.monotonic()
    every_s = plan.every_s or 0.0
    with ThreadPoolExecutor(CONNECTIONS if plan.every_s else 1) as pool:
        futures = [
            pool.submit(_request, plan, number, began_at + number * every_s)
            for number in range(plan.count)
        ]
        print(json.dumps([asdict(future.result()) for future in futures]))


if __name__ == "__main__":
    main()
