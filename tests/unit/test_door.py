"""What is decided at the door of the page, without a master."""

from __future__ import annotations

from typing import Any

import pytest
from buildbot.www.authz import Authz
from buildbot.www.authz.endpointmatchers import AnyControlEndpointMatcher
from buildbot.www.authz.endpointmatchers import AnyEndpointMatcher
from buildbot.www.authz.endpointmatchers import StopBuildEndpointMatcher
from buildbot.www.authz.roles import RolesFromUsername
from twisted.internet.address import IPv4Address
from twisted.internet.address import IPv6Address
from twisted.internet.address import UNIXAddress

from litebot.master.limits.addresses import address_of
from litebot.master.web import large
from litebot.master.web.auth import missing_for_all_actions


@pytest.mark.parametrize(
    ("peer", "address"),
    [
        (IPv4Address("TCP", "192.0.2.7", 1), "192.0.2.7"),
        (IPv6Address("TCP", "::ffff:192.0.2.7", 1), "192.0.2.7"),
        (IPv6Address("TCP", "2001:db8:1:2:3::4", 1), "2001:db8:1:2::/64"),
        (IPv6Address("TCP", "2001:db8:1:2:5::", 1), "2001:db8:1:2::/64"),
        (IPv6Address("TCP", "fe80::1%eth0", 1), "fe80::/64"),
        (UNIXAddress("/run/litebot"), ""),
    ],
)
def test_visitors_are_told_apart_by_their_address(peer: Any, address: str) -> None:
    assert address_of(peer) == address


ALL = AnyControlEndpointMatcher(role="admin")
EVERYTHING = AnyEndpointMatcher(role="admin")
STOP = StopBuildEndpointMatcher(role="*")
HINT = AnyControlEndpointMatcher(role="developer", defaultDeny=False)
ADA = RolesFromUsername(roles=["admin"], usernames=["Ada"])


@pytest.mark.parametrize(
    ("rules", "user", "missing"),
    [
        ([ALL], "Eve", "admin"),
        ([ALL], "Ada", None),
        ([EVERYTHING], "Eve", "admin"),
        ([HINT, ALL], "Eve", "admin"),
        ([STOP, ALL], "Eve", None),
        ([ALL, STOP], "Eve", "admin"),
        ([HINT], "Eve", None),
        ([], "Eve", None),
    ],
)
def test_who_may_not_act_at_all(rules: list[Any], user: str, missing: str | None) -> None:
    authz = Authz(allowRules=rules, roleMatchers=[ADA])
    assert missing_for_all_actions(authz, {"username": user}) == missing


def test_rules_of_a_configuration_s_own_are_asked_later() -> None:
    class Own(Authz):
        pass

    assert missing_for_all_actions(Own(allowRules=[ALL]), {"anonymous": True}) is None
    assert missing_for_all_actions(object(), {"anonymous": True}) is None


@pytest.mark.parametrize("piece", [b"[],", b"{},", b'"",', b'"a":1,', b"[[["])
def test_json_of_many_values_is_refused(piece: bytes) -> None:
    large.require_few_values(piece * 10_000)
    with pytest.raises(ValueError, match="more than 100,000 values"):
        large.require_few_values(piece * (large.MOST_VALUES + 1))
    large.require_few_values(b"x" * 3 * large.PIECE_BYTES)
