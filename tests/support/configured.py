"""The beginning of master.cfg for tests that kill a master or run several on one database."""

CONFIG = """\
import os

from buildbot.plugins import changes, reporters, schedulers, steps, util, worker
from buildbot.process.properties import Properties
from buildbot.reporters.base import ReporterBase

c = BuildmasterConfig = {}
c["workers"] = [worker.LocalWorker("local", max_builds=8)]
c["www"] = {"change_hook_dialects": {"base": True}}
c["builders"] = []
c["schedulers"] = []

REPORTED = os.path.join(basedir, "reported")


def builder(name, *factories, **options):
    options = {"workernames": ["local"], "collapseRequests": False, **options}
    factory = util.BuildFactory(list(factories))
    c["builders"].append(util.BuilderConfig(name=name, factory=factory, **options))
    c["schedulers"].append(schedulers.ForceScheduler(name=f"force-{name}", builderNames=[name]))


def shell(line):
    return steps.ShellCommand(command=line, logEnviron=False)


class Telling:
    # Its buildsets say in a property which changes they are about.
    def addBuildsetForChanges(self, changeids=None, **kwargs):
        properties = Properties()
        properties.setProperty("covered", changeids, "test")
        return super().addBuildsetForChanges(
            changeids=changeids, properties=properties, **kwargs
        )


class SingleBranch(Telling, schedulers.SingleBranchScheduler):
    pass


class AnyBranch(Telling, schedulers.AnyBranchScheduler):
    pass


class Periodic(Telling, schedulers.Periodic):
    pass


class Reporter(ReporterBase):
    # Appends to the file REPORTED, and fails while there is no such file.
    def sendMessage(self, reports):
        # Several masters do so at a time, which seeking the end would not stand.
        with os.fdopen(os.open(REPORTED, os.O_WRONLY | os.O_APPEND), "w") as file:
            for report in reports:
                for build in report["builds"]:
                    file.write(f"{self.name} {build['buildid']} {build['results']}\\n")


def reporter(name, generator):
    c.setdefault("services", []).append(Reporter(name=name, generators=[generator]))
"""
