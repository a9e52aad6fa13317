"""Paths on the master that have properties in them stay where master.cfg puts them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from support.commands import wait_for
from support.master import FAILURE
from support.master import SUCCESS
from support.master import Master

CONFIG = """
outside = {outside!r}
made = steps.ShellCommand(command="mkdir -p dir; echo new > file; echo new > dir/inner")
word = "%(prop:word)s"


def old(*args):
    return steps.FileUpload(workersrc="file", masterdest=util.WithProperties(*args))


def one(masterdest, **kwargs):
    return steps.FileUpload(workersrc="file", masterdest=masterdest, **kwargs)


@util.renderer
def joined(props):
    return os.path.join(outside, "named", props["word"])


UPLOADS = {{
    "literal": one(util.Interpolate("kept/" + word + "/x")),
    "prefix": one(util.Interpolate("kept/a-" + word)),
    "basedir": one(util.Interpolate(word)),
    "absolute": one(util.Interpolate(outside + "/named/" + word)),
    "keyword": one(util.Interpolate("%(kw:top)s/" + word, top=outside + "/named")),
    "builder": one(util.Interpolate("%(prop:top)s/%(prop:buildername)s/" + word)),
    "property": one(util.Property("word")),
    "trusted": one(util.Property("top")),
    "old": old("kept/%s", "word"),
    "older": old("kept/%(word)s"),
    "function": one(joined),
    "plain": one(outside + "/named/plain"),
    "directory": steps.DirectoryUpload(
        workersrc="dir", masterdest=util.Interpolate("kept/" + word)
    ),
    "several": steps.MultipleFileUpload(
        workersrcs=["file", "dir"], masterdest=util.Interpolate("kept/" + word)
    ),
    "download": steps.FileDownload(
        mastersrc=util.Interpolate("kept/" + word), workerdest="got"
    ),
    "downloads": steps.FileDownload(mastersrc=util.Interpolate(word), workerdest="got"),
}}
for name, step in UPLOADS.items():
    c["builders"].append(
        util.BuilderConfig(
            name,
            workernames=["local"],
            factory=util.BuildFactory([made, step]),
            properties={{"top": outside + "/named/" + ("t" if name == "trusted" else "")}},
        )
    )
c["schedulers"].append(
    schedulers.ForceScheduler(
        "words", builderNames=list(UPLOADS), properties=[util.StringParameter("word", default="")]
    )
)
"""


@pytest.fixture(scope="module")
def outside(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that is not the master's, with one in it that the configuration names."""
    folder = tmp_path_factory.mktemp("outside")
    (folder / "named").mkdir()
    return folder


@pytest.fixture(scope="module")
def running(module_master: Master, outside: Path) -> Iterator[Master]:
    module_master.configure(CONFIG.format(outside=str(outside)))
    kept = module_master.basedir / "kept"
    (kept / "within").mkdir(parents=True)
    (kept / "leads-out").symlink_to(outside)
    (kept / "leads-in").symlink_to("within")
    (kept / "there").write_text("there", encoding="utf-8")
    module_master.start()
    yield module_master
    module_master.stop()


def upload(master: Master, builder: str, word: str) -> tuple[int, str]:
    """Build with this word; return the result, and the log of the upload if it failed."""
    number = len(master.builds(builder)) + 1
    master.force(builder, f"--property=word={word}")
    build = master.finished_build(builder, number)
    steps = master.rest(f"builds/{build['buildid']}/steps", order="number")["steps"]
    logs = master.rest(f"steps/{steps[-1]['stepid']}/logs")["logs"]
    texts = [master.log_text(build["buildid"], steps[-1]["name"], log["slug"]) for log in logs]
    return build["results"], "".join(texts)


def tree(*folders: Path) -> dict[str, bytes]:
    """What is in these folders, but for what a running master writes."""
    mine = {"workers", "twistd.log", "http.log", "gitpoller-work"}
    return {
        str(path): path.read_bytes()
        for folder in folders
        for path in sorted(folder.rglob("*"))
        if path.is_file()
        and not mine & {path.relative_to(folder).parts[0]}
        and not path.name.startswith("state.sqlite")
    }


@pytest.mark.parametrize(
    ("builder", "word"),
    [
        *(("literal", word) for word in ("..", "../..", "leads-out", "a/../../..")),
        ("prefix", "x/../../y"),
        *(("basedir", word) for word in ("../x", "/tmp/litebot-x", "~/x", "master.cfg", "users")),
        *(("basedir", word) for word in ("secrets/x", "mine.py", "state.sqlite", "litebot.toml")),
        *(("absolute", word) for word in ("../x", "..", "../../x")),
        ("keyword", "../x"),
        ("builder", "../../x"),
        *(("property", word) for word in ("{outside}/x", "../x", "buildbot.tac")),
        ("old", "../x"),
        ("older", "../x"),
        *(("function", word) for word in ("../x", "{outside}/x")),
        *(("directory", word) for word in ("../x", "..", ".", "leads-out/x")),
        ("several", "../x"),
        *(("download", word) for word in ("../master.cfg", "../secrets/worker-password")),
        *(("downloads", word) for word in ("secrets/worker-password", "/etc/passwd")),
    ],
)
def test_a_path_that_leads_out_is_refused(
    running: Master, outside: Path, builder: str, word: str
) -> None:
    word = word.format(outside=outside)
    before = tree(running.basedir, outside)
    results, log = upload(running, builder, word)
    assert results == FAILURE
    assert "refused: the master" in log
    assert "Traceback" not in log
    assert tree(running.basedir, outside) == before


@pytest.mark.parametrize(
    ("builder", "word", "made"),
    [
        ("literal", "1.2.3", "kept/1.2.3/x"),
        ("literal", "feature/ü", "kept/feature/ü/x"),
        ("literal", "leads-in", "kept/within/x"),
        ("literal", "a..b", "kept/a..b/x"),
        ("prefix", "x", "kept/a-x"),
        ("basedir", "x.zip", "x.zip"),
        ("basedir", "dist/x.zip", "dist/x.zip"),
        ("absolute", "x", "{outside}/named/x"),
        ("keyword", "y", "{outside}/named/y"),
        ("builder", "z", "{outside}/named/builder/z"),
        ("trusted", "", "{outside}/named/t"),
        ("old", "old", "kept/old"),
        ("older", "older", "kept/older"),
        ("function", "f/x", "{outside}/named/f/x"),
        ("plain", "", "{outside}/named/plain"),
        ("directory", "d", "kept/d/inner"),
        ("several", "s", "kept/s/file"),
    ],
)
def test_a_path_that_stays_is_written(
    running: Master, outside: Path, builder: str, word: str, made: str
) -> None:
    results, log = upload(running, builder, word)
    assert results == SUCCESS, log
    path = running.basedir / made.format(outside=outside)
    assert path.read_text(encoding="utf-8") == "new\n"


def test_a_download_of_a_file_that_is_there(running: Master) -> None:
    assert upload(running, "download", "there")[0] == SUCCESS


LYING_GIT = """#!/bin/sh
case "$*" in *rev-parse*) cat {lie}; exit 0 ;; esac
exec git "$@"
"""


@pytest.mark.parametrize("lie", ["../" * 12 + "abcd", "-" * 40, "0" * 39 + "A"])
def test_a_revision_that_a_worker_reports_looks_like_one(
    master: Master, tmp_path: Path, lie: str
) -> None:
    """A worker may have any program as its git."""
    programs = tmp_path / "programs"
    programs.mkdir()
    (tmp_path / "lie").write_text(lie, encoding="utf-8")
    text = LYING_GIT.format(lie=tmp_path / "lie").replace("exec git", "exec /usr/bin/git")
    (programs / "git").write_text(text, encoding="utf-8")
    (programs / "git").chmod(0o755)
    master.configure(
        f"""
        c["builders"][0].factory = util.BuildFactory([
            steps.Git(repourl=repository, env={{"PATH": "{programs}:/usr/bin:/bin"}}),
            steps.FileUpload("README.md", util.Interpolate("kept/%(prop:got_revision)s.md")),
        ])
        """
    )
    master.start()
    master.force("hello")
    build = master.finished_build("hello")
    assert build["results"] == FAILURE
    properties = master.rest(f"builds/{build['buildid']}/properties")["properties"][0]
    assert "got_revision" not in properties
    assert not (master.basedir / "kept").exists()
    text = master.log_text(build["buildid"], "git")
    assert f"the revision from the worker is '{lie}'; it is no revision of git" in text


def test_the_sample_keeps_its_packages(master: Master) -> None:
    """As sample-master does: a folder, and in it a name with the revision."""
    master.configure(
        """
        c["builders"][0].factory.addStep(
            steps.FileUpload("README.md", util.Interpolate("packages/%(prop:got_revision)s.md"))
        )
        """
    )
    master.start()
    assert master.force("hello").returncode == 0
    wait_for(lambda: list((master.basedir / "packages").glob("*.md")), "the package")
