"""The fields that each command prints with --json, and what they hold.

docs/reference/cli.md shows them, and a test compares them with what the commands print.  A field
keeps its name and its meaning; new fields may be added.
"""

from __future__ import annotations

from litebot.projects.definition import KEYS

# For each command, this maps paths to meanings.  A path names a field as in jq, without the first
# dot; "[]" stands for each item of a list, "{}" for each key of an object whose keys are data.
REPORT = {
    "id": "for `report drop`",
    "masterid": "the master that is to tell it",
    "reporter": 'the name of the reporter; "" for all of them',
    "kind": '"builds" or "buildsets"',
    "about": "the id of the build or the buildset whose end is reported",
    "attempts": "how often that has failed",
    "retry_at": "when it is tried next; null while it is tried, and where only a start does",
    "error": "how the last attempt failed, or null",
    "url": "the build or the buildset on the page; null while no master runs",
}

SOURCES = (
    "what change sources can't do at present: of each thing the `source`, `what` it is, such as"
    ' "poll", `since` when, and the `error` of the last attempt'
)

PROJECT = {
    "name": "",
    "version": "its number, from 1",
    "saved_at": "",
    "saved_by": "",
    "saved_on": '"page" or "command"',
    "comment": "",
    "definition": "its keys and their values; null where it was removed",
    **{f"definition.{key}": "" for key, field in KEYS.items() if field.default != ()},
    **{f"definition.{key}[]": "" for key, field in KEYS.items() if field.default == ()},
}
PROJECTS = {f"[].{path}": meaning for path, meaning in PROJECT.items()}

FIELDS: dict[str, dict[str, str]] = {
    "check-config": {
        "config": "the file that was loaded",
        "good": "whether it has no errors",
        "errors[].file": "where the error is, or null",
        "errors[].line": "its line there, or null",
        "errors[].message": "what is wrong",
        "notes[]": "what its user may not expect",
    },
    "status": {
        "basedir": "its absolute path",
        "running": "whether its master runs",
        "pid": "of the master, or null",
        "started_at": "when the master that runs was started, or null",
        "url": "the page of the master that runs, or null",
        "database.path": "the state file; not on a server",
        "database.size_bytes": "its size; not on a server",
        "database.log_bytes": "the size of its write-ahead log; not on a server",
        "database.url": "the database on a server; not of a file",
        "builders[]": "the names of the builders that masters have",
        "running_builds[].buildid": "",
        "running_builds[].number": "the build's number in its builder",
        "running_builds[].builder": "the builder's name",
        "running_builds[].worker": "the worker's name, or null before it has one",
        "running_builds[].started_at": "",
        "running_builds[].state": "what it does",
        "pending": "how many build requests wait",
        "pending_requests[].buildrequestid": "of the oldest 100 that wait",
        "pending_requests[].builder": "the builder's name",
        "pending_requests[].submitted_at": "",
        "pending_requests[].priority": "",
        "without_builder{}": "how many of them are for a builder, by its name, that no master has",
        "last_start": "the master's last start on this database, or null; then without fields",
        "last_start.id": "",
        "last_start.master": "its name: HOST:BASEDIR",
        "last_start.pid": "",
        "last_start.version": "of litebot",
        "last_start.started_at": "",
        "last_start.stopped_at": "null while it runs, and where it ended without a clean stop",
        "last_start.taken_over_at": "when another master took its work over, or null",
        "last_start.taken_over_by": "the name of that one, or null",
        "last_start.repairs[].kind": "what was found half done and dealt with",
        "last_start.repairs[].message": "the same in words",
        "last_start.repairs[].buildid": "the build that it is about, or null",
        "last_start.repairs[].url": "that on the page, or null",
        "masters[]": "the names of the other masters that run on the same database",
        **{f"reports[].{name}": "as in `report list`" for name in REPORT},
        "missing": "what the state file lacks of what was on disk, in words, or null",
        "outage": "null while the database of the master that runs answers; else an object",
        "outage.since": "since when it does not",
        "outage.words": "what is said of it",
        "last_refused{}": "who or what that was last, by the reason",
        "lost_workers{}": "the workers that were taken for lost as they did not answer, by name",
        "lost_workers{}.since": "since when that is, in epoch seconds",
        "lost_workers{}.words": "how long a worker did not answer",
        "refused{}": "how often the limits of the running master refused something, by the reason",
        "sources": SOURCES,
        "unreachable": "why the database can't be read, or null; the rest is empty then",
    },
    "why": {
        "changeid": "",
        "schedulers[].scheduler": "the scheduler's name",
        "schedulers[].what": "what became of the change there, in words",
        "schedulers[].buildsetid": "the buildset that it is in, or null",
        "sources": SOURCES,
    },
    "report list": {f"[].{name}": meaning for name, meaning in REPORT.items()},
    "project pulls": {"[].ref": "to build it by", "[].revision": "of its last commit"},
    "project hook": {
        "name": "",
        "address": "for a forge",
        "secret": "with which it signs",
        "whole": "the address with the secret in it, for what signs nothing",
    },
    "project tell": {
        "[].tell": "the line that says whom",
        "[].sent": "whether a test message was taken; false without --test",
        "[].error": "why it was not, or null",
        "[].answers[].where": "the server",
        "[].answers[].code": "its answer, as a code of HTTP or SMTP",
        "[].answers[].text": "its words",
    },
    "project check": {
        "file": "the .litebot.toml that was read; null without one",
        "good": "whether it has no errors; without one, whether litebot can propose one",
        "errors[].line": "",
        "errors[].message": "what is wrong",
        "steps[].name": "this and all below: what a good file says",
        "steps[].run": "the command",
        "steps[].timeout_s": "how many seconds it may take, or null",
        "steps[].env{}": "the environment of this step, besides `env`",
        "steps[].directory": 'where it runs in the checkout; "" for its top',
        "env{}": "the environment of all steps",
        "shell[]": "what runs a command, its last argument",
        "matrix{}": "the values of each variable of the matrix",
        "workers[]": "patterns of names of workers; empty: any may build it",
        "branches[]": "patterns of branches; empty: all are built",
        "paths[]": "patterns of files; empty: each change is built",
        "nightly": 'a time of day such as "03:00", or null',
        "secrets[]": "the secrets that it asks for",
        "proposed": "without a file, the text of the one that litebot proposes, or null",
        "reasons[]": "why it proposes this one",
    },
    "user list": {"[].name": "", "[].role": '"admin" or "viewer"'},
    "check": {
        "[].kind": "what is half done or damaged",
        "[].id": "of what it is about, 0 where that has none",
        "[].message": "the same in words",
        "[].buildid": "the build that it is about, or null",
    },
    "project key": {
        "name": "of the project",
        "key": "the secret with the private half: a file in the folder secrets",
        "public": "the public half, for the repository",
        "made": "whether it was made now",
    },
    "version": {
        "litebot": "",
        "buildbot": "",
        "twisted": "",
        "sqlalchemy": "",
        "psycopg": "null where it is not installed",
        "sqlite": "the one that litebot uses",
        "python": "",
    },
    **dict.fromkeys(
        (f"project {verb}" for verb in ("list", "history", "export", "import")), PROJECTS
    ),
    **dict.fromkeys(
        (
            f"project {verb}"
            for verb in ("add", "show", "edit", "enable", "disable", "remove", "undo")
        ),
        PROJECT,
    ),
}
