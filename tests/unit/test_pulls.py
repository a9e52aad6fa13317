"""Which refs are pull requests, and which of those from forks wait."""

from __future__ import annotations

import pytest

from litebot.master.projects.building.look import Look
from litebot.master.projects.building.pulls import MOST_WAITING
from litebot.master.projects.building.pulls import Seen
from litebot.master.projects.building.pulls import follow
from litebot.master.projects.building.pulls import number_of
from litebot.master.projects.building.pulls import own
from litebot.master.projects.building.refs import Refs


@pytest.mark.parametrize(
    ("ref", "number"),
    [
        ("refs/pull/7/head", 7),
        ("refs/merge-requests/12/head", 12),
        ("refs/pull-requests/3/from", 3),
        ("refs/pull/7/merge", None),
        ("refs/heads/pull/7/head", None),
        ("refs/pull/x/head", None),
        ("main", None),
    ],
)
def test_which_refs_are_pull_requests(ref: str, number: int | None) -> None:
    assert number_of(ref) == number
    assert Refs(("main",), (), pulls=True)(ref) == (number is not None or ref == "main")
    assert not Refs(("other",), (), pulls=False)(ref)


def pull(number: int) -> str:
    return f"refs/pull/{number}/head"


def test_one_of_a_branch_is_not_from_a_fork() -> None:
    pulls = {pull(1): "a", pull(2): "b", pull(3): "c"}
    heads = {"refs/heads/feature": "b", "refs/heads/x": "d"}
    assert own(pulls, heads, {}) == {pull(2): "b"}
    # Its branch is merged and deleted, or was pushed to a moment ago.
    assert own(pulls, {}, {pull(2): "b"}) == {pull(2): "b"}
    assert own({pull(2): "new"}, {}, {pull(2): "b"}) == {}


def test_none_waits_at_the_first_look() -> None:
    first = follow(None, None, {pull(1): "a"}, {pull(9): "b"})
    assert first == Seen(9, {}, {pull(9): "b"})
    assert follow(first, None, {pull(1): "changed?"}, {pull(9): "b"}) == first


def test_new_and_changed_ones_wait_until_they_are_gone() -> None:
    one = {pull(1): "a", pull(9): "b"}
    two = {**one, pull(10): "c", pull(1): "a2"}
    then = follow(Seen(9, {}, {}), one, two, {})
    assert then == Seen(10, {pull(10): "c", pull(1): "a2"}, {})
    assert follow(then, None, two, {}) == then  # after a restart
    assert follow(then, two, {**one, pull(1): "a2"}, {}) == Seen(10, {pull(1): "a2"}, {})
    later = follow(then, two, {**two, pull(10): "c2"}, {})
    assert list(later.waiting.items()) == [(pull(1), "a2"), (pull(10), "c2")]


def test_only_the_last_ones_wait() -> None:
    many = {pull(number): "a" for number in range(1, 200)}
    waiting = follow(Seen(0, {}, {}), {}, many, {}).waiting
    assert list(waiting) == [pull(number) for number in range(200 - MOST_WAITING, 200)]


def test_many_refs_are_read() -> None:
    printed = "".join(f"{number:040x}\trefs/pull/{number}/head\n" for number in range(1, 1000))
    printed += f"{7:040x}\trefs/heads/feature\n{1:040x}\trefs/heads/main\n"
    look = Look.of(printed, Refs(("main",), (), pulls=True), None)
    assert look.refs == {"refs/pull/7/head": f"{7:040x}", "refs/heads/main": f"{1:040x}"}
    assert list(look.mine) == ["refs/pull/7/head"]
    assert len(look.forks) == 998
    assert look.problem is None
    gone = Look.of(printed, Refs(("trunk",), ()), None)
    assert gone.problem == "there is no such branch; there are: feature, main"
    assert Look.of("", Refs(("main",), ()), None).problem == "there are no branches yet"
