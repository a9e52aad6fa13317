"""The actions of the REST API and the checks of their parameters.

Buildbot's endpoints check neither the types of parameters nor whether the id in the path exists.
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

from litebot.master.web.payloads import OrNull
from litebot.master.web.payloads import check_shape
from litebot.master.web.payloads import check_text
from litebot.store.sql import LARGEST
from litebot.store.sql import SMALLEST

OPTIONAL_REASON = {"reason?": OrNull(str)}
ACTIONS: dict[type, dict[str, dict[str, Any]]] = {
    BuildEndpoint: {"stop": OPTIONAL_REASON, "rebuild": {}},
    BuildRequestEndpoint: {"cancel": OPTIONAL_REASON, "set_priority": {"priority": int}},
    SchedulerEndpoint: {"enable": {"enabled": bool}},
    WorkerEndpoint: dict.fromkeys(("stop", "pause", "unpause", "kill"), OPTIONAL_REASON),
    ForceSchedulerEndpoint: {"force": {"builderid?": (int, str), "builderNames?": [str]}},
}

LARGEST_DIGITS = len(str(LARGEST))
LARGEST_PRIORITY = 2**31 - 1


async def check(endpoint: Any, kwargs: dict[str, Any], action: str, params: Any) -> None:
    """Check an action before an endpoint of Buildbot's carries it out.

    Raises BadJsonRpc2 for an action or a parameter that the endpoint does not take, and
    InvalidPathError if the object of the path does not exist.
    """
    actions = next((ACTIONS[kind] for kind in ACTIONS if isinstance(endpoint, kind)), None)
    if actions is None:
        return
    if action not in actions:
        raise BadJsonRpc2(
            f"action {action!r} is not supported; it must be one of {', '.join(actions)}",
            JSONRPC_CODES["method_not_found"],
        )
    try:
        check_shape(actions[action], params)
    except ValueError as error:
        raise _invalid_params(str(error)) from error
    if await defer.maybeDeferred(endpoint.get, ResultSpec(), kwargs) is None:
        raise InvalidPathError("there is nothing to control at this path")
    if isinstance(endpoint, ForceSchedulerEndpoint):
        scheduler = await endpoint.findForceScheduler(kwargs["schedulername"])
        await _check_force(scheduler, params)
    elif abs(params.get("priority", 0)) > LARGEST_PRIORITY:
        raise _invalid_params(_priority_error(params["priority"]))


async def _check_force(scheduler: ForceScheduler, params: dict[str, Any]) -> None:
    if "self" in params:
        raise _invalid_params("there is no parameter 'self'")
    names = params.get("builderNames", [])
    if "builderid" in params:
        builder, builderid = None, str(params["builderid"])
        if not builderid.isdigit() or len(builderid) < LARGEST_DIGITS:
            builder = await scheduler.master.data.get(("builders", builderid))
        if builder is None:
            raise _invalid_params(f"there is no builder with the id {params['builderid']}")
        names = [*names, builder["name"]]
    if others := set(names) - set(scheduler.builderNames):
        listed = ", ".join(sorted(others))
        raise _invalid_params(f"the force scheduler {scheduler.name!r} does not build {listed}")
    numbers = set()
    for field in _single_fields(scheduler):
        # Otherwise Buildbot prints a traceback for each value that a user mistypes.
        vars(field).setdefault("debug", False)
        if isinstance(field, IntParameter):
            numbers.add(field.fullName)
    for name, value in params.items():
        for each in value if isinstance(value, list) else [value]:
            if isinstance(each, (dict, list)):
                raise _invalid_params(
                    f"{name} must be a string, a number, true or false, or a list of these"
                )
            if name in numbers and not isinstance(each, (int, str)):
                raise _invalid_params(f"{name} must be a whole number")
    try:
        priority = int(params.get(scheduler.forced_priority.fullName) or 0)
    except (TypeError, ValueError):
        return  # the scheduler itself refuses it
    if abs(priority) > LARGEST_PRIORITY:
        raise _invalid_params(_priority_error(priority))


def _priority_error(priority: int) -> str:
    return f"priority is {priority}; it must be from -{LARGEST_PRIORITY} to {LARGEST_PRIORITY}"


def _single_fields(scheduler: ForceScheduler) -> Iterator[BaseParameter]:
    """Yield the parameters of a scheduler, with those inside NestedParameters in their place."""
    pending = list(scheduler.all_fields)
    while pending:
        field = pending.pop()
        if isinstance(field, NestedParameter):
            pending.extend(field.fields)
        else:
            yield field


def check_values(where: str, value: Any) -> None:
    """Raise BadJsonRpc2 if a JSON value holds, at any depth, what no database can store."""
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
            raise _invalid_params(str(error)) from error
    elif isinstance(value, (int, float)) and not SMALLEST <= value <= LARGEST:
        raise _invalid_params(f"{where} must be a number that fits in 64 bits")


def _invalid_params(message: str) -> BadJsonRpc2:
    return BadJsonRpc2(message, JSONRPC_CODES["invalid_params"])
