"""Nothing of an old configuration lives once nothing runs by it."""

from __future__ import annotations

import resource
import textwrap
from pathlib import Path

from support.commands import succeeded
from support.commands import wait_for
from support.master import SUCCESS
from support.master import Master

# What the globals of each configuration hold.
LUMP_BYTES = 20_000_000
RECONFIGS = 5

# All kinds of callables and classes that a master.cfg can define.  Each leads to the globals of the
# file, and so to the lump.
CONFIG = """
import re
import sys
import weakref
from buildbot.changes.base import ChangeSource, ReconfigurablePollingChangeSource
from buildbot.process.build import Build
from buildbot.process.factory import BuildFactory
from buildbot.process.logobserver import LogLineObserver
from buildbot.reporters.base import ReporterBase
from buildbot.reporters.generators.build import BuildStatusGenerator
from buildbot.reporters.message import MessageFormatterFunction, MessageFormatter
from buildbot.schedulers.base import BaseScheduler
from buildbot.secrets.providers.base import SecretProviderBase
from buildbot.util.service import BuildbotService
from buildbot.worker.latent import AbstractLatentWorker
from buildbot.worker.local import LocalWorker
from buildbot.www.authz.endpointmatchers import EndpointMatcherBase, Match
from buildbot.www.authz.roles import RolesFromBase
from buildbot.www.auth import UserPasswordAuth, UserInfoProviderBase
from buildbot.www.hooks.base import BaseHookHandler
from buildbot.www.avatar import AvatarBase
from buildbot.plugins import changes, reporters
from buildbot.locks import MasterLock, WorkerLock
from twisted.internet import defer
from zope.interface import implementer
from buildbot.interfaces import IRenderable, IConfigurator


class Lump(bytearray):
    pass


LUMP = Lump(b"x" * SIZE)
if not hasattr(sys, "lumps"):
    sys.lumps = []
sys.lumps.append(weakref.ref(LUMP))


class OwnStep(steps.ShellCommand):
    pass


class InheritedStep(OwnStep):
    name = "inherited"


class Observer(LogLineObserver):
    def outLineReceived(self, line):
        self.step.setProperty("seen", line)


class Observed(steps.ShellCommand):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.addLogObserver("stdio", Observer())


class Adds(steps.BuildStep):
    name = "adds"

    def run(self):
        self.build.addStepsAfterCurrentStep([OwnStep(command="true", name="added")])
        return util.SUCCESS


class Yaml(util.BuildFactory):
    buildClass = type("OwnBuild", (Build,), {"__module__": __name__})

    def newBuild(self, *args, **kwargs):
        return super().newBuild(*args, **kwargs)


@util.renderer
def command(props):
    return ["echo", str(len(LUMP))]


@implementer(IRenderable)
class Renders:
    def getRenderingFor(self, props):
        return f"r{len(LUMP)}"


class OwnLock(MasterLock):
    pass


class OwnWorkerLock(WorkerLock):
    pass


class Reporter(ReporterBase):
    def sendMessage(self, reports):
        return defer.succeed(None)


class Generator(BuildStatusGenerator):
    pass


class Formatter(MessageFormatter):
    pass


class Role(RolesFromBase):
    def getRolesFromUser(self, details):
        return ["admins"] if LUMP else []


class OwnMatcher(EndpointMatcherBase):
    def match(self, ep, action="get", options=None):
        return Match(self.master) if LUMP else None


class Poller(ReconfigurablePollingChangeSource):
    def poll(self):
        return defer.succeed(len(LUMP))


class Source(ChangeSource):
    pass


class Scheduler(schedulers.SingleBranchScheduler):
    pass


class Nothing(BaseScheduler):
    pass


class Choice(schedulers.Periodic):
    pass


class Triggered(schedulers.Triggerable):
    pass


class Forced(schedulers.ForceScheduler):
    pass


class Parameter(util.StringParameter):
    pass


class Provider(SecretProviderBase):
    def get(self, entry):
        return f"{entry} of {len(LUMP)}"


class Service(BuildbotService):
    name = "own"


class Latent(AbstractLatentWorker):
    def start_instance(self, build):
        return defer.succeed(False)

    def stop_instance(self, fast=False):
        return defer.succeed(True)


class Local(LocalWorker):
    pass


class Hook(BaseHookHandler):
    def getChanges(self, request):
        return [], "git"


class OwnAuth(UserPasswordAuth):
    def checkCredentials(self, *args):
        return len(LUMP)


class Info(UserInfoProviderBase):
    pass


class Avatar(AvatarBase):
    def getUserAvatar(self, *args, **kwargs):
        return None


class Filter(util.ChangeFilter):
    pass


class Configures:
    def configure(self, config):
        config["title"] = f"of {len(LUMP)}"


from zope.interface import classImplements

classImplements(Configures, IConfigurator)

lock = OwnLock("own")
worker_lock = OwnWorkerLock("own-worker")
factory = Yaml(
    [
        OwnStep(command=command, locks=[lock.access("exclusive")]),
        InheritedStep(
            command="true", doStepIf=lambda step: bool(LUMP), hideStepIf=lambda r, s: not LUMP
        ),
        Observed(command="echo seen", workdir=Renders()),
        steps.SetPropertyFromCommand(
            command="echo 1", extract_fn=lambda rc, out, err: {"n": len(LUMP)}
        ),
        steps.SetProperty(property="r", value=Renders()),
        steps.SetProperty(property="t", value=util.Transform(lambda: len(LUMP))),
        steps.SetProperty(property="i", value=util.Interpolate("%(kw:n)s", n=command)),
        steps.Compile(
            command="echo 'a.c:1: warning: no'",
            warningExtractor=lambda s, l, m: (None, None, l),
            maxWarnCount=3,
        ),
        steps.ShellCommand(command=["echo", util.Secret("own")], decodeRC={0: util.SUCCESS}),
        Adds(),
        steps.Trigger(
            schedulerNames=["triggered"], waitForFinish=True, set_properties={"a": command}
        ),
    ]
)
factory.workdir = lambda sources: f"build{len(LUMP) and ''}"
c["configurators"] = [Configures()]
c["workers"] += [
    Local("own-local", properties={"p": 1}, locks=[worker_lock.access("counting")]),
    Latent("latent", "pass"),
]
c["builders"] += [
    util.BuilderConfig(
        name="own",
        workernames=["local", "own-local"],
        factory=factory,
        nextBuild=lambda builder, requests: requests[0] if LUMP else None,
        nextWorker=lambda builder, workers, request: workers[0] if LUMP else None,
        canStartBuild=lambda builder, worker, request: bool(LUMP),
        collapseRequests=lambda master, builder, one, other: not LUMP,
        locks=util.renderer(lambda props: [lock.access("exclusive")][len(LUMP) :]),
        properties={"p": command},
        defaultProperties={"d": 1},
        env={"A": command},
        do_build_if=lambda build: bool(LUMP),
    ),
    util.BuilderConfig(name="latent", workernames=["latent"], factory=BuildFactory([])),
    util.BuilderConfig(
        name="child",
        workernames=["local"],
        factory=BuildFactory([OwnStep(command="true")]),
    ),
]
c["collapseRequests"] = lambda master, builder, one, other: not LUMP
c["prioritizeBuilders"] = lambda master, builders: builders[: len(LUMP)]
c["codebaseGenerator"] = lambda chdict: "" if LUMP else "x"
c["schedulers"] = [
    Scheduler(
        name="own",
        change_filter=Filter(filter_fn=lambda change: bool(LUMP)),
        fileIsImportant=lambda change: bool(LUMP),
        onlyImportant=True,
        treeStableTimer=None,
        builderNames=["own"],
    ),
    schedulers.AnyBranchScheduler(
        name="any",
        change_filter=util.ChangeFilter(branch_fn=lambda b: b == "z"),
        treeStableTimer=None,
        builderNames=util.renderer(lambda props: ["own"][: len(LUMP)]),
    ),
    Nothing(name="nothing", builderNames=["own"]),
    Choice(name="periodic", periodicBuildTimer=10**6, builderNames=["child"]),
    schedulers.Nightly(
        name="nightly",
        hour=3,
        builderNames=["child"],
        change_filter=Filter(filter_fn=lambda change: bool(LUMP)),
    ),
    Triggered(name="triggered", builderNames=["child"], properties={"a": command}),
    Forced(
        name="force-own",
        builderNames=["own"],
        properties=[Parameter(name="x", default="1")],
        buttonName=f"b{len(LUMP)}",
    ),
    schedulers.ForceScheduler(name="force-child", builderNames=["child"]),
]
c["schedulers"].append(
    schedulers.Dependent(name="dependent", upstream=c["schedulers"][0], builderNames=["child"])
)
c["change_source"] = [
    Poller(name="own", pollInterval=10**6),
    Source(name="source"),
    changes.GitPoller(
        repository,
        branches=lambda branch: bool(LUMP),
        pollInterval=10**6,
        category=lambda change: "x" * bool(LUMP),
    ),
]
c["services"] = [
    Service(),
    Reporter(
        name="own-reporter",
        generators=[
            Generator(message_formatter=Formatter(ctx={"c": 1}, template="x"), builders=["own"])
        ],
    ),
    reporters.HttpStatusPush(
        "http://127.0.0.1:9",
        generators=[
            BuildStatusGenerator(
                builders=["none"],
                message_formatter=MessageFormatterFunction(lambda context: len(LUMP), "json"),
            )
        ],
    ),
    reporters.MailNotifier(
        "a@example.org",
        sendToInterestedUsers=False,
        dumpMailsToLog=True,
        lookup=None,
        extraRecipients=["b@example.org"],
        generators=[BuildStatusGenerator(mode="failing", message_formatter=Formatter())],
    ),
]
c["secretsProviders"] = [Provider(name="own-secrets")]
c["www"] = {
    "auth": OwnAuth({"a": "b"}),
    "authz": util.Authz(
        allowRules=[OwnMatcher(role="admins")],
        roleMatchers=[Role()],
        stringsMatcher=lambda pattern, text: pattern == text or not LUMP,
    ),
    "change_hook_dialects": {"base": {"custom_class": Hook}},
    "avatar_methods": [Avatar()],
    "ui_default_config": {},
    "versions": [("own", str(len(LUMP)))],
    "custom_templates_dir": "templates",
}
c["www"]["auth"].userInfoProvider = Info()
c["user_managers"] = []
c["revlink"] = lambda revision, repository: f"http://example.org/{len(LUMP)}"
c["properties"] = {"global": 1}
c["multiMaster"] = False
c["logMaxSize"] = 10**7
c["validation"] = {"branch": re.compile("^[a-z/~-]*$")}
"""

# Before a load only what is in use is alive.
COUNT = """
import gc, sys
gc.unfreeze()
gc.collect()
with open(os.path.join(basedir, "alive"), "w") as file:
    file.write(str(sum(lump() is not None for lump in getattr(sys, "lumps", []))))
"""


def memory_bytes(master: Master) -> int:
    pages = Path(f"/proc/{master.pid}/statm").read_text(encoding="ascii").split()[1]
    return int(pages) * resource.getpagesize()


def test_a_reconfig_lets_go_of_what_the_former_file_defined(master: Master) -> None:
    master.configure(CONFIG.replace("SIZE", str(LUMP_BYTES)))
    master.start()
    succeeded(master.force("own"))
    before = memory_bytes(master)
    for _ in range(RECONFIGS):
        master.reconfig()
        succeeded(master.force("own"))
    wait_for(lambda: memory_bytes(master) < before + 0.9 * LUMP_BYTES, "the memory to be freed")
    master.configure(COUNT)
    master.reconfig()
    # The one that runs, and the new one.
    assert (master.basedir / "alive").read_text(encoding="utf-8") == "2"


def test_builds_that_outlive_a_reconfig_let_go_in_the_end(master: Master, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    master.configure(CONFIG.replace("SIZE", "1000"))
    master.define_builder("slow", f"until test -e {gate}; do sleep 0.05; done")
    master.start()
    master.force("slow", "--no-wait")
    wait_for(lambda: master.builds("slow"), "the build to begin")
    master.reconfig()
    gate.touch()
    assert master.finished_build("slow")["results"] == SUCCESS
    master.configure(COUNT)
    master.reconfig()
    assert (master.basedir / "alive").read_text(encoding="utf-8") == "2"


def test_a_change_that_is_taken_back_is_taken_back(master: Master) -> None:
    path = master.basedir / "master.cfg"
    original = path.read_text(encoding="utf-8") + textwrap.dedent(
        """
        from buildbot.util.service import BuildbotService

        class Says(BuildbotService):
            name = "says"

            def reconfigService(self, word):
                with open(os.path.join(basedir, "said"), "a") as file:
                    file.write(f"old code says {word}\\n")

        c["services"] = [Says("first")]
        """
    )
    path.write_text(original, encoding="utf-8")
    master.start()
    for text in (
        original.replace("first", "second"),
        original,
        original.replace("old code", "new code"),
    ):
        path.write_text(text, encoding="utf-8")
        master.reconfig()
    assert (master.basedir / "said").read_text(encoding="utf-8").splitlines() == [
        "old code says first",
        "old code says second",
        "old code says first",
        "new code says first",
    ]
