"""What the REST API may be told to do: its actions and their parameters.

Buildbot's endpoints take them as they come, and an id that nobody has.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from buildbot.data.buildrequests import BuildRequestEndpoint
from buildbot.data.builds import BuildEndpoint
from buildbot.data.exceptions import InvalidPathError
from buildbot.data.forceschedulers import ForceSchedulerEndpoint
from buildbot.data.resultspec import ResultSpec
from buildbot.data.schedulers import SchedulerEndpoint
from buildbot.data.workers import WorkerEndpoint
from buildbot.schedulers.forcesched import BaseParameter
from buildbot.schedulers.forcesched import ForceScheduler
from buildbot.schedulers.forcesched import IntParameter
from buildbot.schedulers.forcesched import NestedParameter
from buildbot.www.rest import JSONRPC_CODES
from buildbot.www.rest import BadJsonRpc2
from twisted.internet import defer

from litebot.master.web.payloads import Maybe
from litebot.master.web.payloads import check_shape
from litebot.master.web.payloads import check_text
from litebot.store.sql import LARGEST
from litebot.store.sql import SMALLEST

OPTIONAL_REASON = {"reason?": Maybe(str)}
ACTIONS: dict[type, dict[str, dict[str, Any]]] = {
    BuildEndpoint: {"stop": OPTIONAL_REASON, "rebuild": {}},
    BuildRequestEndpoint: {"cancel": OPTIONAL_REASON, "set_priority": {"priority": int}},
    SchedulerEndpoint: {"enable": {"enabled": bool}},
    WorkerEndpoint: dict.fromkeys(("stop", "pause", "unpause", "kill"), OPTIONAL_REASON),
    ForceSchedulerEndpoint: {"force": {"builderid?": (int, str), "builderNames?": [str]}},
}

MOST_DIGITS = len(str(LARGEST))
LARGEST_PRIORITY = 2**31 - 1


async def check(endpoint: Any, kwargs: dict[str, Any], action: str, params: Any) -> None:
    """Raise what says why an endpoint of Buildbot's can't do this."""
    actions = next((ACTIONS[kind] for kind in ACTIONS if isinstance(endpoint, kind)), None)
    if actions is None:
        return
    if action not in actions:
        raise BadJsonRpc2(
            f"action {action!r} is not supported; there are {', '.join(actions)}",
            JSONRPC_CODES["method_not_found"],
        )
    try:
        check_shape(actions[action], params)
    except ValueError as error:
        raise _invalid(str(error)) from error
    if await defer.maybeDeferred(endpoint.get, ResultSpec(), kwargs) is None:
        raise InvalidPathError("there is no such thing to control")
    if isinstance(endpoint, ForceSchedulerEndpoint):
        scheduler = await endpoint.findForceScheduler(kwargs["schedulername"])
        await _check_force(scheduler, params)
    elif abs(params.get("priority", 0)) > LARGEST_PRIORITY:
        raise _invalid(f"priority is {params['priority']}, and at most {LARGEST_PRIORITY}")


async def _check_force(scheduler: ForceScheduler, params: dict[str, Any]) -> None:
    if "self" in params:
        raise _invalid("there is no parameter 'self'")
    names = params.get("builderNames", [])
    if "builderid" in params:
        builder, builderid = None, str(params["builderid"])
        if not builderid.isdigit() or len(builderid) < MOST_DIGITS:
            builder = await scheduler.master.data.get(("builders", builderid))
        if builder is None:
            raise _invalid(f"there is no builder with the id {params['builderid']}")
        names = [*names, builder["name"]]
    if others := set(names) - set(scheduler.builderNames):
        raise _invalid(f"{scheduler.name} does not build {', '.join(sorted(others))}")
    numbers = set()
    for field in _fields(scheduler):
        vars(field).setdefault("debug", False)  # else the log has a traceback of each mistype
        if isinstance(field, IntParameter):
            numbers.add(field.fullName)
    for name, value in params.items():
        for each in value if isinstance(value, list) else [value]:
            if isinstance(each, (dict, list)):
                raise _invalid(f"{name} must be a text, a number, true or false, or a list of such")
            if name in numbers and not isinstance(each, (int, str)):
                raise _invalid(f"{name} must be a whole number")
    try:
        priority = int(params.get(scheduler.forced_priority.fullName) or 0)
    except (TypeError, ValueError):
        return  # it is the scheduler that says so
    if abs(priority) > LARGEST_PRIORITY:
        raise _invalid(f"priority is {priority}, and at most {LARGEST_PRIORITY}")


def _fields(scheduler: ForceScheduler) -> Iterator[BaseParameter]:
    """The parameters of a scheduler, but for those that only hold others."""
    waiting = list(scheduler.all_fields)
    while waiting:
        field = waiting.pop()
        if isinstance(field, NestedParameter):
            waiting.extend(field.fields)
        else:
            yield field


def check_values(where: str, value: Any) -> None:
    """Raise BadJsonRpc2 where there is something that no database takes, however deep."""
    if isinstance(value, dict):
        for name, each in value.items():
            check_values("a name", name)
            check_values(name, each)
    elif isinstance(value, list):
        for each in value:
            check_values(where, each)
    elif isinstance(value, str):
        try:
            check_text(where, value)
        except ValueError as error:
            raise _invalid(str(error)) from error
    elif isinstance(value, (int, float)) and not SMALLEST <= value <= LARGEST:
        raise _invalid(f"{where} is too large a number, or none")


def _invalid(message: str) -> BadJsonRpc2:
    return BadJsonRpc2(message, JSONRPC_CODES["invalid_params"])
