"""The comparison itself: what it must not let pass."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from archive import CannotFetch
from archive import fetch
from comparison import Comparison
from comparison import Known
from comparison import load_known
from sides import Result
from sides import RunFailed
from sides import Side
from sides import run_both

from support.commands import is_running
from support.commands import wait_for


def side(**outcomes: str) -> Side:
    return Side({test: Result(outcome) for test, outcome in outcomes.items()}, 0, 1.0)


def problems(comparison: Comparison) -> dict[str, list[str]]:
    found = {
        "not loaded": comparison.not_loaded(),
        "unknown": comparison.unknown_differences(),
        "broken": comparison.broken_on_stock(),
        "stale": comparison.stale(),
    }
    return {problem: tests for problem, tests in found.items() if tests}


def test_same_outcomes_are_no_problem() -> None:
    both = side(a="passed", b="skipped", c="todo")
    assert problems(Comparison(both, both, [])) == {}


@pytest.mark.parametrize("outcome", ["failed", "error", "skipped", "unfinished"])
def test_an_unlisted_difference_is_unknown(outcome: str) -> None:
    comparison = Comparison(side(a="passed"), side(a=outcome), [])
    assert problems(comparison) == {"unknown": ["a"]}
    assert f"a: passed on stock, {outcome} on litebot" in comparison.explain(["a"])


def test_a_test_missing_on_one_side_is_unknown() -> None:
    assert problems(Comparison(side(a="passed"), side(), [])) == {"unknown": ["a"]}
    assert problems(Comparison(side(), side(a="passed"), [])) == {"unknown": ["a"]}


def test_a_module_that_loads_on_neither_side_is_a_problem() -> None:
    both = side(module="not loaded")
    assert problems(Comparison(both, both, []))["not loaded"] == ["module"]


def test_a_failure_on_both_sides_is_a_problem_unless_listed() -> None:
    both = side(a="failed")
    assert problems(Comparison(both, both, [])) == {"broken": ["a"]}
    assert problems(Comparison(both, both, [Known("a", "failed", "failed", "why")])) == {}


def test_a_listed_difference_is_no_problem_and_another_one_is() -> None:
    known = [Known("a", "passed", "error", "why")]
    assert problems(Comparison(side(a="passed"), side(a="error"), known)) == {}
    assert problems(Comparison(side(a="passed"), side(a="failed"), known)) == {"unknown": ["a"]}


@pytest.mark.parametrize("now", [side(a="passed"), side()], ids=["same", "gone"])
def test_an_entry_that_does_not_differ_or_is_gone_is_stale(now: Side) -> None:
    assert problems(Comparison(now, now, [Known("a", "passed", "error", "why")])) == {
        "stale": ["a"]
    }


def test_only_what_was_not_expected_runs_again() -> None:
    comparison = Comparison(
        side(a="passed", b="passed", c="passed"),
        side(a="error", b="error", c="passed"),
        [Known("a", "passed", "error", "why")],
    )
    asked = []

    def run(tests: list[str]) -> tuple[Side, Side]:
        asked.append(tests)
        return side(b="passed"), side(b="passed")

    comparison.run_unexpected_again(run)
    assert asked == [["b"]]
    assert problems(comparison) == {}
    assert "run again alone: b: passed and error, then passed and passed" in comparison.table("")


def test_the_list_names_each_key(tmp_path: Path) -> None:
    path = tmp_path / "known.toml"
    path.write_text('[[stock_failure]]\ntest = "a"\noutcome = "failed"\nreason = "why"\n')
    assert load_known(path) == [Known("a", "failed", "failed", "why")]
    path.write_text('[[difference]]\ntest = "a"\nstock = "passed"\nlitebot = "error"\n')
    with pytest.raises(TypeError, match="reason"):
        load_known(path)
    path.write_text('[[diference]]\ntest = "a"\n')
    with pytest.raises(TypeError, match="no such section: diference"):
        load_known(path)


def test_an_archive_that_cant_be_fetched_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(CannotFetch, match="No matching distribution"):
        fetch("4.3.0", tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def fake_buildbot(folder: Path, code: str) -> Path:
    """A source tree whose tests are `code`, run when they are loaded."""
    tests = folder / "buildbot" / "test"
    tests.mkdir(parents=True)
    (tests.parent / "__init__.py").touch()
    (tests / "__init__.py").write_text(code)
    return folder


def test_a_side_that_takes_too_long_is_killed_with_its_children(tmp_path: Path) -> None:
    source = fake_buildbot(
        tmp_path,
        "import subprocess, sys, time\n"
        "child = subprocess.Popen(['sleep', '60'])\n"
        f"with open('{tmp_path}/children', 'a') as file: print(child.pid, file=file)\n"
        "print('waiting for nothing')\n"
        "time.sleep(60)\n",
    )
    with pytest.raises(RunFailed, match=r"(?s)stock was not done after 4 s.*waiting for nothing"):
        run_both(source, ["buildbot.test"], time_limit_s=4)
    children = [int(pid) for pid in (tmp_path / "children").read_text().split()]
    assert len(children) == 2
    wait_for(lambda: not any(map(is_running, children)), f"processes {children} to be gone")


def test_a_side_that_breaks_down_says_what_it_said_last(tmp_path: Path) -> None:
    source = fake_buildbot(tmp_path, "raise SystemExit('no tests today')\n")
    with pytest.raises(RunFailed, match=r"(?s)stock exited with 1 .*no tests today"):
        run_both(source, ["buildbot.test"])
