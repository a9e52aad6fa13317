"""Lists of the REST API: the same rows in the same order from either database."""

from __future__ import annotations

from typing import Any

from support.commands import succeeded
from support.master import Master
from support.master import on_both

REQUESTS = 3
MANY = 700
BUILD = (
    "builderid, buildrequestid, workerid, masterid, id, number, started_at, locks_duration_s,"
    " results, state_string"
)


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


@on_both
def test_long_lists_and_logs(master: Master) -> None:
    """What is read in pieces is what one query finds."""
    master.define_builder("b", "seq 100000")
    master.start()
    succeeded(master.force("b"))
    [[*ids, ssid]] = master.rows(
        "SELECT b.builderid, b.buildrequestid, b.workerid, b.masterid, s.sourcestampid"
        " FROM builds b, buildset_sourcestamps s"
    )
    with master.connection() as conn:
        for n in range(1001, 1001 + MANY):
            for table, columns, values in (
                ("buildsets", "id, submitted_at, complete", (n, n, 1)),
                ("buildset_sourcestamps", "buildsetid, sourcestampid", (n, ssid)),
                ("builds", BUILD, (*ids, n, n, n, 0, n % 2, f"s{9999 - n}")),
                ("build_properties", "buildid, name, value, source", (n, "n", f"{n}", "Build")),
            ):
                conn.exec_driver_sql(f"INSERT INTO {table} ({columns}) VALUES {values}")

    def found(path: str, **filters: Any) -> list[dict[str, Any]]:
        answer = master.rest(path, **filters)
        rows: list[dict[str, Any]] = answer[path.rpartition("/")[2]]
        assert answer["meta"] == {"total": len(rows)}
        return rows

    many = list(range(1001, 1001 + MANY))
    builds = found("builds", buildid__gt=1000)
    assert [build["buildid"] for build in builds] == many
    builds = found("builds", order="state_string", buildid__gt=1000, property="*")
    assert [build["buildid"] for build in builds] == many[::-1]
    assert [build["properties"] for build in builds] == [{"n": [n, "Build"]} for n in many[::-1]]
    builds = found("builds", order="-complete", results=1)
    assert [build["buildid"] for build in builds] == many[::2]
    sets = found("buildsets", order="-bsid", bsid__gt=1000)
    assert [each["bsid"] for each in sets] == many[::-1]
    assert all([stamp["ssid"] for stamp in each["sourcestamps"]] == [ssid] for each in sets)
    lines = [str(n) for n in range(1, 100_001)]
    raw = (
        master.visitor().request("GET", "/api/v2/builds/1/steps/shell/logs/stdio/raw").body.decode()
    )
    assert "\n".join(lines) in raw
    text = master.log_text(1, "shell")
    assert "".join(f"o{line}\n" for line in lines) in text
