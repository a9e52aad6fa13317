"""Changes in the data API: changes that arrive together are stored in one transaction.

Source: buildbot/data/changes.py, whose names these keep.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from collections.abc import Sequence
from typing import Any
from typing import ClassVar

from buildbot.data import base
from buildbot.data import changes as data_changes
from buildbot.data import sourcestamps
from buildbot.db import changes
from buildbot.db.model import Model
from buildbot.db.sourcestamps import SourceStampModel
from buildbot.process import metrics
from buildbot.process.users.users import createUserObject
from twisted.internet import defer
from twisted.python import log

from litebot.master.db.components.changes import LIST
from litebot.master.db.components.changes import OTHER_TEXTS
from litebot.master.db.components.values import epoch2datetime
from litebot.master.db.components.values import epoch_of
from litebot.master.db.components.values import fit_epoch
from litebot.master.db.components.values import fit_text
from litebot.master.limits import words

# The attributes of a change that the data API shows as they are.
SHOWN = (
    *("changeid", "author", "committer", "comments", "branch", "revision", "revlink", "category"),
    *("parent_changeids", "repository", "codebase", "project", "files", "properties"),
)


def _shown(model: changes.ChangeModel, stamp: SourceStampModel | None) -> dict[str, Any]:
    """Return a change as the data API shows it."""
    shown = {name: getattr(model, name) for name in SHOWN}
    shown["when_timestamp"] = epoch_of(model.when_timestamp)
    shown["sourcestamp"] = None if stamp is None else sourcestamps._db2data(stamp)
    return shown


class ChangesEndpoint(data_changes.ChangesEndpoint):
    """Buildbot's, but does not ask the data API for the sourcestamp of each change."""

    pathPatterns: ClassVar[list[str]] = data_changes.ChangesEndpoint.pathPatterns
    rootLinkName = data_changes.ChangesEndpoint.rootLinkName

    @defer.inlineCallbacks
    def get(self, resultSpec: Any, kwargs: dict[str, Any]) -> Any:
        """Do as Buildbot does, but read the sourcestamps together with their changes."""
        if kwargs or resultSpec is None or not LIST.can_select(resultSpec):
            return (yield super().get(resultSpec, kwargs))
        found = yield self.master.db.changes.get_stamped(resultSpec)
        return [_shown(model, stamp) for model, stamp in found]

    @defer.inlineCallbacks
    def _fixChange(self, model: changes.ChangeModel) -> Any:
        stamp = yield self.master.db.sourcestamps.getSourceStamp(model.sourcestampid)
        return _shown(model, stamp)


class Change(data_changes.Change):
    """Buildbot's, but adds many changes at once; waits for the disk after announcing them."""

    endpoints: ClassVar[list[Any]] = [data_changes.ChangeEndpoint, ChangesEndpoint]

    @base.updateMethod
    @defer.inlineCallbacks
    def addChange(
        self,
        files: list[str] | None = None,
        comments: str | None = None,
        author: str | None = None,
        committer: str | None = None,
        revision: str | None = None,
        when_timestamp: int | None = None,
        branch: str | None = None,
        category: str | Callable[..., Any] | None = None,
        revlink: str | None = "",
        properties: dict[str, Any] | None = None,
        repository: str = "",
        codebase: str | None = None,
        project: str = "",
        src: str | None = None,
        _test_changeid: int | None = None,
    ) -> Any:
        """Store a change; return its id once a power loss can't undo it.

        Returns None if its origin has recorded that it was stored before, or if a command would
        misunderstand one of its words: a poller goes on with the next change.
        """
        change = {
            "files": files,
            "comments": comments,
            "author": author,
            "committer": committer,
            "revision": revision,
            "when_timestamp": when_timestamp,
            "branch": branch,
            "category": category,
            "revlink": revlink,
            "properties": properties,
            "repository": repository,
            "codebase": codebase,
            "project": project,
            "src": src,
            "_test_changeid": _test_changeid,
        }
        try:
            (changeid,) = (yield self.addChanges([change])) or [None]
        except words.RefusedWord as error:
            self.master.refusals.note(words.REASON, f"a change of {src or author!r}: {error}")
            return None
        return changeid

    @base.updateMethod
    @defer.inlineCallbacks
    def addChanges(self, changes: Sequence[dict[str, Any]]) -> Any:
        """Store all of these changes or none; return their ids once they are on disk.

        Each change is a dict of addChange's arguments.  Returns an empty list if their origin has
        recorded that they were stored before.  Raises RefusedWord.
        """
        metrics.MetricCountEvent.log("added_changes", len(changes))
        prepared = [self._prepare(dict(change)) for change in changes]
        for change in prepared:
            words.check_stamp(change, self.master.config)
        for change in prepared:
            src = change.pop("src", None)
            if src:
                # This is the shortest of the columns in which the name is kept.
                name = fit_text(self.master.db, Model.users_info.c.attr_data, change.get("author"))
                change["uid"] = yield createUserObject(self.master, name, src)
        changeids = yield self.master.db.changes.addChanges(prepared)
        for changeid in changeids:
            change = yield self.master.data.get(("changes", str(changeid)))
            self.produceEvent(copy.deepcopy(change), "new")
            log.msg(f"added change {changeid} with revision {change['revision']!r}")
        yield self.master.db.on_disk()
        return changeids

    def _prepare(self, change: dict[str, Any]) -> dict[str, Any]:
        """Return a change as the database takes it, with what the configuration adds to it."""
        config = self.master.config
        given = change.get("properties") or {}
        change["properties"] = {name: (value, "Change") for name, value in given.items()}
        revision, repository = change.get("revision"), change.get("repository")
        if not change.get("revlink") and revision and repository and callable(config.revlink):
            change["revlink"] = config.revlink(revision, repository) or ""
        category = change.get("category")
        if callable(category):
            change["category"] = category(self._as_argument(change, without="category"))
        if change.get("codebase") is None and config.codebaseGenerator is not None:
            change["codebase"] = str(config.codebaseGenerator(self._as_argument(change)))
        change["codebase"] = change.get("codebase") or ""
        for name in OTHER_TEXTS:
            change[name] = fit_text(self.master.db, Model.changes.c[name], change.get(name))
        column = Model.change_files.c.filename
        files = change.get("files") or ()
        change["files"] = [fit_text(self.master.db, column, name) for name in files]
        when = fit_epoch(self.master.db, change.get("when_timestamp"))
        change["when_timestamp"] = epoch2datetime(when)
        return change

    def _as_argument(self, change: dict[str, Any], without: str = "") -> dict[str, Any]:
        """Return a change as the functions of the configuration take it."""
        names = (
            *("author", "committer", "files", "comments", "revision", "when_timestamp", "branch"),
            *("category", "revlink", "properties", "repository", "project"),
        )
        arguments = {name: change.get(name) for name in names if name != without}
        made: dict[str, Any] = self.master.config.preChangeGenerator(**arguments)
        return made
