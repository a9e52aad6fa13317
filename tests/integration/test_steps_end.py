"""Steps and builds end, and say why, whatever goes wrong in the bookkeeping of a step."""

from __future__ import annotations

from typing import Any

import pytest

from support.commands import wait_for
from support.master import EXCEPTION
from support.master import SUCCESS
from support.master import Master

pytestmark = pytest.mark.parametrize(
    "database_kind", ["sqlite", "postgres"], indirect=True, scope="module"
)

# The builders, each with one step that is odd, and one that always runs after it.
CONFIG = """
from datetime import datetime
from twisted.internet import defer
from buildbot.process.buildstep import BuildStep
from buildbot.process.logobserver import LogLineObserver


def wrong(*args, **kwargs):
    raise ValueError("a mistake")


def later_wrong(*args):
    return defer.fail(ValueError("a mistake"))


def texts(*args):
    return {"step": "s\\0", "build": "b\\ud800\\0"}


class Step(BuildStep):
    renderables = ["does"]

    def __init__(self, does=None, **kwargs):
        self.does = does
        super().__init__(**kwargs)

    @defer.inlineCallbacks
    def run(self):
        made = yield self.does(self) if self.does else None
        return util.SUCCESS


def does(function, **kwargs):
    return Step(util.Transform(lambda: function), **kwargs)


class Returns(BuildStep):
    def __init__(self, value, **kwargs):
        self.value = value
        super().__init__(**kwargs)

    def run(self):
        return defer.succeed(self.value)


def with_method(name, method, base=Step):
    return type("Odd", (base,), {name: method})()


class Observer(LogLineObserver):
    def outLineReceived(self, line):
        raise ValueError("a mistake")


@defer.inlineCallbacks
def observed(step):
    step.addLogObserver("odd", Observer())
    log = yield step.addLog("odd")
    yield log.addStdout("a line\\n")


@defer.inlineCallbacks
def finishing(step):
    log = yield step.addLog("odd")
    log._finishing = True


def value(value):
    return does(lambda step: step.setProperty("p", util.Transform(lambda: value), "x"))


# What ends a step.
WRONG = {
    "datetime": value(datetime(2026, 1, 1)),
    "bytes": value(b"abc"),
    "render": does(lambda step: step.setProperty("p", util.Transform(wrong), "x")),
    "number": does(lambda step: step.setProperty("p", util.Transform(lambda: 10**5000), "x")),
    "name": does(lambda step: step.setProperty("p\\ud800", "v", "x")),
    "no-name": does(lambda step: step.setProperty(7, "v", "x")),
    "source": does(lambda step: step.setProperty("p", "v", "x\\ud800")),
    "set": steps.SetProperty("p", util.Transform(lambda: {1, 2})),
    "extract": steps.SetPropertyFromCommand(
        command="true", extract_fn=lambda rc, out, err: {"p": datetime(2026, 1, 1)}
    ),
    "extract-name": steps.SetPropertyFromCommand(
        command="true", extract_fn=lambda rc, out, err: {"p\\ud800": "v"}
    ),
    "summary": with_method("getResultSummary", wrong),
    "no-summary": with_method("getResultSummary", lambda self: None),
    "odd-summary": with_method("getResultSummary", lambda self: {"step": b"x"}),
    "build-summary": with_method("getBuildResultSummary", wrong),
    "late-summary": with_method("getResultSummary", later_wrong),
    "nothing": Returns(None),
    "a-text": Returns("success"),
    "a-number": Returns(17),
    "a-pair": Returns((0, ["text"])),
    "step-name": Step(name=util.Transform(wrong)),
    "no-step-name": Step(name=util.Transform(lambda: None)),
    "render-step": steps.ShellCommand(command=util.Transform(wrong)),
    "deferred": steps.ShellCommand(command=util.Transform(defer.Deferred)),
    "hide": Step(hideStepIf=wrong),
    "do": Step(doStepIf=wrong),
    "late-do": Step(doStepIf=later_wrong),
    "observer": does(observed),
    "finish": does(finishing),
    "log-name": does(lambda step: step.addLog(None)),
    "url": does(lambda step: step.addURL(type("Odd", (), {"__str__": wrong})(), "http://x/")),
    "locks": Step(locks=util.Transform(wrong)),
}
# What is odd, and does not matter.
ODD = {
    "surrogates": does(
        lambda step: defer.gatherResults([
            step.addCompleteLog("l\\ud800", "text \\ud800\\0\\n"),
            step.addHTMLLog("h\\0", "text \\ud800\\0"),
            step.addURL("n\\ud800\\0", "http://x/\\ud800"),
        ])
    ),
    "state": Step(description="d\\ud800\\0", descriptionDone="d\\ud800\\0"),
    "build-state": with_method("getResultSummary", texts),
    "step-text": Step(name=util.Transform(lambda: "n\\ud800\\0" + "n" * 60)),
    "value": value(["\\ud800", "\\0"]),
    "nan": value([float("nan"), float("inf")]),
    "statistic": does(lambda step: step.setStatistic("s", object())),
}
# What Postgres has no room for.
LONG = {
    "long-name": does(lambda step: step.setProperty("n" * 300, "v", "x")),
    "nul-name": does(lambda step: step.setProperty("n\\0", "v", "x")),
    "long-source": does(lambda step: step.setProperty("p", "v", "s" * 300)),
    "long-trigger": steps.Trigger(
        schedulerNames=["triggered"], waitForFinish=True, set_properties={"n" * 300: "v"}
    ),
}
for name, step in {**WRONG, **ODD, **LONG}.items():
    after = steps.ShellCommand(command="true", alwaysRun=True, name="after")
    c["builders"].append(
        util.BuilderConfig(
            name=name, workernames=["local"], factory=util.BuildFactory([step, after])
        )
    )
BEGIN = {
    "begin": util.Transform(lambda: datetime(2026, 1, 1)),
    "begin-render": util.Transform(wrong),
}
for name, value in BEGIN.items():
    c["builders"].append(
        util.BuilderConfig(
            name=name, workernames=["local"], factory=util.BuildFactory([]), properties={"p": value}
        )
    )
c["builders"].append(
    util.BuilderConfig(name="child", workernames=["local"], factory=util.BuildFactory([]))
)
c["schedulers"] += [
    schedulers.ForceScheduler("all", builderNames=[*WRONG, *ODD, *LONG, *BEGIN]),
    schedulers.Triggerable("triggered", builderNames=["child"]),
]
"""
# What its log says.
WRONG = {
    "datetime": "the property 'p' can't be stored: its value is datetime.datetime(2026,",
    "bytes": "the property 'p' can't be stored",
    "render": "can't be stored: its value can't be rendered: ValueError: a mistake",
    "number": "the property 'p' can't be stored",
    "name": r"the property 'p\ud800' can't be stored: its name has a lone surrogate",
    "no-name": "the property 7 can't be stored",
    "source": "the property 'p' can't be stored: its source has a lone surrogate",
    "set": "the property 'p' can't be stored: its value is {1, 2}",
    "extract": "the property 'p' can't be stored: its value is datetime.datetime(2026, 1, 1",
    "extract-name": r"the property 'p\ud800' can't be stored",
    "summary": "ValueError: a mistake",
    "no-summary": "the summary of the step Odd is None",
    "odd-summary": "the summary of the step Odd is {'step': b'x'}",
    "build-summary": "ValueError: a mistake",
    "late-summary": "ValueError: a mistake",
    "nothing": "run() of the step Returns returned None, which is no result",
    "a-text": "run() of the step Returns returned 'success'",
    "a-number": "run() of the step Returns returned 17",
    "a-pair": "run() of the step Returns returned (0, ['text'])",
    "step-name": "ValueError: a mistake",
    "no-step-name": "",
    "render-step": "ValueError: a mistake",
    "deferred": "the argument command of the step ShellCommand is a Deferred",
    "hide": "ValueError: a mistake",
    "do": "ValueError: a mistake",
    "late-do": "ValueError: a mistake",
    "observer": "ValueError: a mistake",
    "finish": "Did you maybe forget to yield the method?",
    "log-name": "",
    "url": "ValueError: a mistake",
    "locks": "ValueError: a mistake",
}
BEGIN = {"begin": "its value is datetime.datetime(2026, 1, 1", "begin-render": "a mistake"}
LONG = {
    "long-name": "its name has 300 characters; Postgres takes up to 256",
    "nul-name": "its name has a NUL character, which Postgres can't store",
    "long-source": "its source has 300 characters; Postgres takes up to 256",
    "long-trigger": "",
}
ODD = ["surrogates", "state", "build-state", "step-text", "value", "nan", "statistic"]
BOTH = pytest.mark.parametrize(
    "database_kind", ["sqlite", "postgres"], indirect=True, scope="module"
)


@pytest.fixture(scope="module")
def ended(module_master: Master) -> Master:
    """A master on which a build of each builder has ended."""
    module_master.configure(CONFIG)
    module_master.start()
    visitor = module_master.login()
    for builder in [*WRONG, *ODD, *LONG, *BEGIN]:
        found = module_master.rest(f"builders/{builder}")["builders"][0]
        reply = visitor.control("forceschedulers/all", "force", builderid=found["builderid"])
        assert reply.status == 200, reply.body
    incomplete = "SELECT b.name FROM buildrequests r JOIN builders b ON b.id = r.builderid"
    incomplete += " WHERE r.complete = 0"
    wait_for(lambda: not module_master.rows(incomplete), "all builds to end", 60)
    return module_master


def results(master: Master, builder: str) -> list[tuple[Any, ...]]:
    """The results of a builder's build and of its steps, in order."""
    of = "FROM builds b JOIN builders r ON r.id = b.builderid"
    return master.rows(f"SELECT b.results {of} WHERE r.name = :name", name=builder) + master.rows(
        f"SELECT s.results {of} JOIN steps s ON s.buildid = b.id"
        " WHERE r.name = :name AND s.name <> 'worker_preparation' ORDER BY s.number",
        name=builder,
    )


def said(master: Master, builder: str) -> str:
    """The log of the exception that the first build of a builder ended with."""
    build = master.builds(builder)[0]
    for number in (0, 1, 2):
        logs = master.rest(f"builds/{build['buildid']}/steps/{number}/logs")["logs"]
        if any(log["slug"] == "err_text" for log in logs):
            return master.log_text(build["buildid"], str(number), "err_text")
    return ""


@pytest.mark.parametrize("builder", WRONG)
def test_what_is_wrong_ends_the_step_and_is_in_its_log(ended: Master, builder: str) -> None:
    assert results(ended, builder) == [(EXCEPTION,), (EXCEPTION,), (SUCCESS,)]
    assert WRONG[builder] in said(ended, builder)


@pytest.mark.parametrize("builder", LONG)
def test_what_postgres_has_no_room_for(ended: Master, builder: str, database_kind: str) -> None:
    if database_kind == "sqlite":
        assert results(ended, builder) == [(SUCCESS,), (SUCCESS,), (SUCCESS,)]
        return
    assert results(ended, builder) == [(EXCEPTION,), (EXCEPTION,), (SUCCESS,)]
    assert LONG[builder] in said(ended, builder)


@pytest.mark.parametrize("builder", BEGIN)
def test_a_property_that_a_build_begins_with(ended: Master, builder: str) -> None:
    assert results(ended, builder) == [(EXCEPTION,)]
    assert "the property 'p' can't be stored: its value" in said(ended, builder)
    assert BEGIN[builder] in said(ended, builder)


@pytest.mark.parametrize("builder", ODD)
def test_odd_texts_and_values_are_stored(ended: Master, builder: str) -> None:
    assert results(ended, builder) == [(SUCCESS,), (SUCCESS,), (SUCCESS,)]


def test_no_worker_is_kept_waiting_for_the_mistakes_of_others(ended: Master) -> None:
    assert "quarantine" not in ended.log
    assert ended.status()["running_builds"] == []
    assert ended.rows("SELECT 1 FROM steps WHERE complete_at IS NULL") == []
    assert ended.rows("SELECT 1 FROM logs WHERE complete = 0") == []
