"""The parts of the frame of litebot's pages that need no master."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

import litebot
from litebot.master.pages import plots
from litebot.master.pages.answers import Redirect
from litebot.master.pages.answers import path_of
from litebot.master.pages.files import FOLDER
from litebot.master.pages.patterns import Routes
from litebot.master.pages.templates import Templates
from litebot.master.pages.templates import ago
from litebot.master.pages.templates import duration
from litebot.master.pages.templates import result


async def _handler(_: object) -> Redirect:
    return Redirect()


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ([], {}),
        (["projects"], {}),
        (["projects", "add"], {}),
        (["projects", "hello"], {"name": "hello"}),
        (["projects", "a/b", "edit"], {"name": "a/b"}),
        (["projects", "hello", "remove"], None),
        (["project"], None),
    ],
)
def test_patterns(path: list[str], found: dict[str, str] | None) -> None:
    routes = Routes()
    for pattern in ("", "projects", "projects/add", "projects/<name>", "projects/<name>/edit"):
        routes.add(pattern, _handler, None)
    match = routes.find(path)
    assert (None if match is None else match[1]) == found


def test_methods_of_a_route() -> None:
    routes = Routes()
    routes.add("a", _handler, _handler)
    routes.add("b", None, _handler)
    assert [routes.find([name])[0].methods for name in "ab"] == [  # type: ignore[index]
        "GET, HEAD, POST",
        "POST",
    ]


def test_paths_are_quoted() -> None:
    assert path_of("projects", "a/b c", done="yes & no") == "projects/a%2Fb%20c?done=yes+%26+no"
    assert Redirect().path == ""


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        *(
            (None, ""),
            (0, "0 s"),
            (0.04, "0 s"),
            (1.0, "1 s"),
            (9.94, "9.9 s"),
            (59.4, "59 s"),
            (60, "1 min"),
        ),
        *((61, "1 min 1 s"), (3600, "1 h"), (3661, "1 h 1 min"), (90000, "25 h")),
    ],
)
def test_durations(seconds: float | None, shown: str) -> None:
    assert duration(seconds) == shown


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        *((-5, "a moment ago"), (0.5, "a moment ago"), (1, "1 second ago")),
        *((119, "1 minute ago"), (7200, "2 hours ago"), (86400 * 30, "30 days ago")),
        (86400 * 31, "13 December 2023"),
    ],
)
def test_times(seconds: float, words: str) -> None:
    now = 1_705_142_400  # 13 January 2024
    assert f">{words}</time>" in ago(now - seconds, now)


def test_results_have_the_names_of_buildbots_stylesheet() -> None:
    assert [result(each) for each in (None, 0, 1, 6)] == [
        "PENDING",
        "SUCCESS",
        "WARNINGS",
        "CANCELLED",
    ]


def test_bars_are_as_long_as_builds_and_the_newest_is_at_the_right() -> None:
    builds = [
        SimpleNamespace(number=number, results=0, duration_s=seconds)
        for number, seconds in enumerate((10.0, 5.0, 0.0))
    ]
    chart = plots.bars(builds, room=4)
    assert chart.paths == ((0, "M8 28v-28h6v28zM16 28v-14h6v14zM24 28v-4h6v4z"),)
    assert chart.width == 30
    assert plots.bars([], room=4).paths == ()


@pytest.mark.parametrize("count", [0, 1, 2, 50])
def test_plots_stay_within_their_frame(count: int) -> None:
    builds = [
        SimpleNamespace(number=number, results=0, duration_s=7.0 * number)
        for number in range(count)
    ]
    plot = plots.duration_plot([*builds, SimpleNamespace(number=99, results=None, duration_s=None)])
    assert len(plot.points) == count
    for x, y, _ in plot.points:
        assert plot.left <= x <= plot.width
        assert 0 <= y <= plot.bottom


def test_templates_escape_and_know_all_names(tmp_path: Path) -> None:
    templates = Templates()
    templates.folders.append(tmp_path)
    (tmp_path / "a.html").write_text("<p>{{ text }}</p>", encoding="utf-8")
    assert templates.render("a.html", {"text": "<b>"}) == b"<p>&lt;b&gt;</p>"
    with pytest.raises(Exception, match="'text' is undefined"):
        templates.render("a.html", {})


def test_the_plugin_has_the_version_of_litebot() -> None:
    version = (FOLDER.parent / "VERSION").read_text(encoding="utf-8").strip()
    assert version == litebot.__version__
