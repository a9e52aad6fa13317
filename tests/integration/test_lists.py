"""Lists of the REST API: the same rows in the same order from either database."""

from __future__ import annotations

from typing import Any

from support.commands import succeeded
from support.master import Master
from support.master import on_both

REQUESTS = 3


@on_both
def test_pages_are_in_order_and_filters_find(master: Master) -> None:
    master.define_builder("b", "true")
    master.start()
    for _ in range(REQUESTS):
        succeeded(master.force("b"))

    def ids(path: str, **filters: Any) -> list[int]:
        found = master.rest(path, **filters)[path]
        return [row[f"{path[:-1]}id"] for row in found]

    # Postgres gives a row that was changed after the others.
    master.execute("UPDATE builds SET state_string = 'changed' WHERE id = 1")
    master.execute("UPDATE buildrequests SET priority = 1, complete_at = NULL WHERE id = 1")
    for path in ("builds", "buildrequests"):
        assert ids(path) == [1, 2, 3]
        assert ids(path, limit=2) == [1, 2]
        assert ids(path, limit=2, offset=1) == [2, 3]
    assert ids("buildrequests", order="complete_at")[0] == 1
    assert ids("buildrequests", order="-complete_at")[-1] == 1
    assert ids("buildrequests", order="-priority") == [1, 2, 3]
    assert ids("buildrequests", waited_for="false", limit=9) == [1, 2, 3]
    assert ids("buildrequests", waited_for="true") == []
    assert ids("builds", results__ne=0) == []
