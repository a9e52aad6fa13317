"""Templates of pages in Jinja2, and the filters that they use."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from datetime import UTC
from datetime import datetime
from pathlib import Path
from typing import Any

import jinja2
from buildbot.process.results import Results
from markupsafe import Markup

from litebot.master.pages import plots

FOLDER = Path(__file__).parent / "templates"
# The units of a time that is given in words: its length in seconds, and its name.
UNITS = ((86400, "day"), (3600, "hour"), (60, "minute"), (1, "second"))
# A time that is longer ago is shown as a date.
MOST_DAYS = 30
PENDING = "PENDING"


class Templates:
    """The templates in some folders; those of a folder that was added earlier count."""

    def __init__(self) -> None:
        self.folders = [FOLDER]
        self._environment: jinja2.Environment | None = None

    def render(self, name: str, values: dict[str, Any]) -> bytes:
        """Return what a template makes of values, in UTF-8.  May be called in any thread."""
        if self._environment is None:
            self._environment = self._make_environment()
        text = self._environment.get_template(name).render(values)
        return text.encode("utf-8", "replace")

    def _make_environment(self) -> jinja2.Environment:
        environment = jinja2.Environment(
            loader=jinja2.FileSystemLoader(self.folders),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            auto_reload=False,
        )
        environment.filters |= {"ago": ago, "duration": duration, "result": result}
        environment.globals |= {
            "bars": plots.bars,
            "duration_plot": plots.duration_plot,
            "results_in_words": results_in_words,
        }
        return environment


def ago(at: float | None, now: float | None = None) -> Markup:
    """Return a <time> that says how long ago something was, in words."""
    if at is None:
        return Markup("")
    when = datetime.fromtimestamp(at, UTC)
    seconds = (time.time() if now is None else now) - at
    words = when.strftime("%-d %B %Y") if seconds > MOST_DAYS * 86400 else f"{_words(seconds)} ago"
    date, time_of_day = when.isoformat(timespec="seconds")[:19].split("T")
    title = f"{date} {time_of_day} UTC"
    # None of it can have markup; Markup.format would take three times as long.
    return Markup(f'<time datetime="{date}T{time_of_day}Z" title="{title}">{words}</time>')  # noqa: S704


def _words(seconds: float) -> str:
    for length, name in UNITS:
        if seconds >= length:
            count = int(seconds // length)
            return f"{count} {name}{'s' if count > 1 else ''}"
    return "a moment"


def duration(seconds: float | None) -> str:
    """Return a duration in at most two units, such as "3 min 20 s"."""
    if seconds is None:
        return ""
    if seconds < 10:
        return f"{seconds:.1f}".removesuffix(".0") + " s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    units = [(hours, "h"), (minutes, "min"), (rest, "s")]
    shown = [f"{count} {unit}" for count, unit in units if count][:2]
    return " ".join(shown)


def results_in_words(builds: Sequence[plots.Shown]) -> str:
    """Say what a chart of last results shows, for those who can't see it."""
    counts = Counter(result(build.results).lower() for build in builds)
    words = ", ".join(f"{count} {name}" for name, count in counts.most_common())
    return f"Results of the last builds: {words}" if builds else "No build yet"


def result(results: int | None) -> str:
    """Return the name of a build's result, as in Buildbot's stylesheet; None has not ended."""
    return PENDING if results is None else Results[results].upper()
