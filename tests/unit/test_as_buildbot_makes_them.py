"""What is written out here after Buildbot's own source is as in the Buildbot that is installed."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable
from collections.abc import Iterator
from typing import Any

from buildbot import master as buildbots_master
from buildbot.db import connector

from litebot.master import database
from litebot.master import service

# What litebot makes in the places of what Buildbot makes, by Buildbot's names.
REPLACED = {
    "httpclientservice.HTTPClientService.getService": "HTTPClientService.getService",
    "workermanager.WorkerManager": "WorkerManager",
    "dbconnector.DBConnector": "Database",
    "mqconnector.MQConnector": "MQConnector",
    "dataconnector.DataConnector": "Data",
    "wwwservice.WWWService()": (
        "WWWService({b'litebot': self.pages}, {b'project': ProjectHook(self)})"
    ),
    "service.BuildbotServiceManager": "ServiceManager",
    "PBManager()": "PBManager(worker_logins)",
    "MsgManager()": "MsgManager(worker_logins)",
}
# And with which arguments and methods of its own.
OWN_ARGUMENTS = {"db", "masterHeartbeatService"}


def statements(method: Callable[..., Any]) -> Iterator[ast.stmt]:
    """Those of a method that make parts, give them a parent, or set something on them."""
    (function,) = ast.parse(textwrap.dedent(inspect.getsource(method))).body
    assert isinstance(function, ast.FunctionDef)
    for node in function.body:
        if not isinstance(node, ast.FunctionDef) and not is_docstring(node):
            yield node


def is_docstring(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def test_the_parts_of_a_master_are_made_as_buildbot_makes_them() -> None:
    ours = [
        ast.unparse(node)
        for node in statements(service.BuildMaster.create_child_services)
        if not is_of_litebot(node)
    ]
    theirs = []
    for node in statements(buildbots_master.BuildMaster.create_child_services):
        line = ast.unparse(node)
        for name, own in REPLACED.items():
            line = line.replace(name, own)
        theirs.append(line)
    assert [shape(line) for line in ours] == [shape(line) for line in theirs]


# Parts that Buildbot has not, and what they are made of.
LITEBOTS = {
    *("is_sqlite", "self.cluster", "plain", "shared", "owner", "self.mq.classes", "self.control"),
    *("self.change_delivery", "self.outbox", "self.attempts", "self.worker_controls"),
    "worker_logins",
}


def is_of_litebot(node: ast.stmt) -> bool:
    if isinstance(node, ast.Assign):
        return ast.unparse(node.targets[0]) in LITEBOTS
    if isinstance(node, ast.AnnAssign):
        return ast.unparse(node.target) in LITEBOTS
    return isinstance(node, ast.For)  # which gives those their parent


def shape(line: str) -> str:
    """A statement without the arguments of what litebot gives others."""
    name = line.partition(" = ")[0].removeprefix("self.")
    return line.partition("(")[0] if name in OWN_ARGUMENTS else line


def test_the_heartbeat_is_buildbots() -> None:
    source = inspect.getsource(buildbots_master.BuildMaster.create_child_services)
    (theirs,) = [n for n in ast.walk(ast.parse(textwrap.dedent(source))) if is_heartbeat(n)]
    ours = ast.parse(textwrap.dedent(inspect.getsource(service.BuildMaster._heartbeat))).body[0]
    assert isinstance(ours, ast.FunctionDef)
    assert isinstance(theirs, ast.FunctionDef)
    assert [*map(ast.unparse, ours.body)] == [*map(ast.unparse, theirs.body)]
    assert f"TimerService({service.HEARTBEAT_S}, heartbeat)" in source


def is_heartbeat(node: ast.AST) -> bool:
    return isinstance(node, ast.FunctionDef) and node.name == "heartbeat"


def test_the_components_are_buildbots_in_its_order() -> None:
    made = {}
    others = []
    for node in statements(connector.DBConnector.set_master):
        line = ast.unparse(node)
        if isinstance(node, ast.Assign) and line.endswith("ConnectorComponent(self)"):
            name, _, call = line.removeprefix("self.").partition(" = ")
            module, _, class_name = call.removesuffix("(self)").partition(".")
            made[name] = getattr(getattr(connector, module), class_name)
        elif "setServiceParent" not in line or "cleanup_timer" in line:
            others.append(line.replace("internet.TimerService", "TimerService"))
    assert list(database.BUILDBOTS.items()) == list(made.items())
    ours = [
        ast.unparse(node).replace("schema.Model", "model.Model")
        for node in statements(database.Database.set_master)
        if not isinstance(node, ast.For)
    ]
    assert ours == others


def test_litebots_components_are_subclasses_of_those_in_whose_places_they_are() -> None:
    for name, component in database.COMPONENTS.items():
        assert isinstance(component, type)
        assert issubclass(component, database.BUILDBOTS[name])
    assert list(database.COMPONENTS) == list(database.BUILDBOTS)
