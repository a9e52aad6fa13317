"""How a branch is: the worst result over the cells of its matrix, at its newest revision."""

from __future__ import annotations

import apsw

from litebot.master.projects.web.branches import Branch
from litebot.master.projects.web.branches import branches_of
from litebot.master.projects.web.branches import thd_branches
from litebot.master.projects.web.branches import worst
from litebot.master.projects.web.overview import Activity
from litebot.master.projects.web.overview import Origin
from litebot.master.projects.web.overview import ShownBuild
from litebot.master.projects.web.overview import thd_origins
from litebot.store.sql import ApswSql

SUCCESS, WARNINGS, FAILURE, RETRY, CANCELLED = 0, 1, 2, 5, 6

Made = tuple[str, str | None, str, int | None]


def activity_of(*made: Made) -> Activity:
    """Builds, the oldest first, each with its branch, revision, cell and results."""
    activity = Activity(1)
    for number, (branch, revision, cell, results) in enumerate(made, 1):
        activity.builds.append(ShownBuild(number, 1, number, 0, 1, 0, results, ""))
        activity.origins[number] = Origin(branch, revision, cell=cell)
    return activity


def of_main(*made: tuple[str | None, str, int | None]) -> int | None:
    """The number of the build that says how main is."""
    activity = activity_of(*(("main", *each) for each in made))
    found = worst(activity.builds, activity.origins)
    return None if found is None else found.number


def test_the_newest_revision_counts_alone() -> None:
    assert of_main() is None
    assert of_main(("a", "", FAILURE), ("b", "", SUCCESS)) == 2
    assert of_main(("a", "", FAILURE), ("a", "", SUCCESS)) == 2  # built again
    assert of_main(("a", "", SUCCESS), ("b", "", None)) == 1  # until one of b has ended
    assert of_main(("a", "", None)) == 1
    assert of_main(("a", "", FAILURE), ("a", "", RETRY)) == 1


def test_the_worst_cell_counts() -> None:
    cells = (("a", "X=1", SUCCESS), ("a", "X=2", FAILURE), ("a", "X=3", CANCELLED))
    assert of_main(*cells) == 2
    assert of_main(*cells[::-1]) == 2
    assert of_main(*cells, ("a", "X=2", SUCCESS), ("a", "X=3", WARNINGS)) == 5
    assert of_main(("a", "X=1", SUCCESS), ("a", "X=2", None)) == 2
    assert of_main(("a", "X=1", None), ("a", "X=2", FAILURE)) == 2
    # It failed before it knew of a matrix.
    assert of_main(("a", "", FAILURE), ("a", "X=1", SUCCESS)) == 2


def test_mistyped_branches_are_left_out_and_pull_requests_told_apart() -> None:
    found = list(
        branches_of(
            activity_of(
                ("main", "a", "", SUCCESS),
                ("refs/pull/7/head", "b", "", FAILURE),
                ("refs/merge-requests/8/head", "c", "", FAILURE),
                ("mian", None, "", FAILURE),
            )
        )
    )
    assert [(each.title, each.is_pull) for each in found] == [
        ("Merge request 8", True),
        ("Pull request 7", True),
        ("main", False),
    ]
    assert all(isinstance(each, Branch) for each in found)


# A build of trunk at night, one cell that somebody asked for, and one of a pull request.
BUILDS = """
CREATE TABLE builds (id, builderid, number, started_at, complete_at, locks_duration_s, results,
  state_string, buildrequestid);
CREATE TABLE buildrequests (id, buildsetid);
CREATE TABLE buildsets (id, reason);
CREATE TABLE buildset_sourcestamps (buildsetid, sourcestampid);
CREATE TABLE sourcestamps (id, branch, revision);
CREATE TABLE changes (author, sourcestampid);
CREATE TABLE build_properties (buildid, name, value);
INSERT INTO builds VALUES (1, 5, 1, 0, 1, 0, 0, '', 1), (2, 5, 2, 0, 1, 0, 2, '', 2),
  (3, 5, 3, 0, 1, 0, 0, '', 3);
INSERT INTO buildrequests VALUES (1, 1), (2, 2), (3, 3);
INSERT INTO buildsets VALUES (1, 'nightly'), (2, 'build now'), (3, 'push');
INSERT INTO buildset_sourcestamps VALUES (1, 1), (2, 1), (3, 2);
INSERT INTO sourcestamps VALUES (1, 'trunk', NULL), (2, 'refs/pull/7/head', 'c');
INSERT INTO changes VALUES ('Ada <ada@example.org>', 2);
INSERT INTO build_properties VALUES (1, 'got_revision', '"a"'), (2, 'got_revision', '"b"'),
  (2, 'owner', '"eva"'), (2, 'matrix', '{"CC": "clang", "X": "2"}');
"""


def test_what_is_read_of_a_branch_and_of_what_builds_were_made() -> None:
    database = apsw.Connection(":memory:")
    database.execute(BUILDS)
    sql = ApswSql(database, None)  # type: ignore[arg-type]
    made = activity_of(*[("", "", "", SUCCESS)] * 3).builds
    assert thd_origins(sql, made) == {
        1: Origin("trunk", "a", "nightly", "nightly"),
        2: Origin("trunk", "b", "eva", "build now", "CC=clang X=2"),
        3: Origin("refs/pull/7/head", "c", "Ada", "push"),
    }
    own = thd_branches(sql, {5: "trunk"})[5]
    assert (own.build.number, own.build.results) == (2, FAILURE)
    assert own.origin == Origin("trunk", "b", "eva", "build now", "CC=clang X=2")
    assert thd_branches(sql, {5: "main"}) == thd_branches(sql, {}) == {}
