"""The worker in the master's process that stands behind a LocalWorker."""

from __future__ import annotations

import functools
from typing import Any

from buildbot_worker import null
from buildbot_worker.base import WorkerBase

from litebot.master.builds.environment import StepEnvironment
from litebot.master.builds.whole_lines import FoundLines
from litebot.master.builds.whole_lines import ProtocolCommand
from litebot.master.runtime.subclasses import put_before
from litebot.master.secrets.masker import masker


class WorkerForBuilder(null.WorkerForBuilderNull):
    """Starts commands without the withheld variables; a step's own `env` may still set them."""

    ProtocolCommand = ProtocolCommand

    def remote_startCommand(
        self, command_ref: Any, command_id: Any, command: Any, args: Any
    ) -> Any:
        put_before(command_ref.impl, FoundLines)
        if command == "shell":
            words = args.get("command")
            for word in words if isinstance(words, list) else ():
                masker.learn_obfuscated(word)
            withheld = self.bot.environment.withheld()
            args = {**args, "env": {**withheld, **(args.get("env") or {})}}
        return super().remote_startCommand(command_ref, command_id, command, args)


class Bot(null.BotNull):
    """The worker's side of a LocalWorker, with a StepEnvironment."""

    WorkerForBuilder = WorkerForBuilder

    def __init__(self, environment: StepEnvironment, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.environment = environment

    def remote_getWorkerInfo(self) -> dict[str, Any]:
        return {**super().remote_getWorkerInfo(), "environ": self.environment.variables()}


class RemoteLocalWorker(null.LocalWorker):
    """The worker that stands behind a LocalWorker, with litebot's Bot."""

    def __init__(self, environment: StepEnvironment, name: str, basedir: str) -> None:
        # The __init__ of the direct parent would use Buildbot's bot.
        WorkerBase.__init__(self, name, basedir, functools.partial(Bot, environment))
