"""What litebot adds to a configuration refuses none that runs on stock Buildbot."""

from __future__ import annotations

import os

import pytest

from support.commands import succeeded
from support.master import SUCCESS
from support.master import Master


def test_a_folder_secrets_of_ones_own(master: Master) -> None:
    folder = master.basedir / "secrets"
    (folder / "token.txt").write_text("opensesame", encoding="utf-8")
    (folder / "token.txt").chmod(0o644)
    (folder / "binary").write_bytes(b"\xff\xfe")
    (folder / "binary").chmod(0o600)
    (folder / "of odd mode").write_text("wordofmouth", encoding="utf-8")
    (folder / "of odd mode").chmod(0o602)
    (folder / "more").mkdir()
    (folder / "more" / "deeper").write_text("deep", encoding="utf-8")
    os.mkfifo(folder / "pipe")
    (folder / "dangling").symlink_to(folder / "nowhere")
    (folder / "good").write_text("usable-secret\n", encoding="utf-8")
    (folder / "good").chmod(0o600)
    done = succeeded(master.run("check-config"))
    for said in (
        f"{folder}/token.txt is not used as a secret: others can read it (mode 0644); chmod 600",
        f"chmod 600 '{folder}/of odd mode'",
        f"{folder}/binary is not used as a secret: it is not UTF-8",
    ):
        assert said in done.stdout + done.stderr
    master.configure(
        """
        c["builders"].append(util.BuilderConfig(
            name="b", workernames=["local"], factory=util.BuildFactory([
                steps.ShellCommand(command=["test", util.Secret("good"), "=", "usable-secret"])
            ])))
        c["schedulers"].append(schedulers.ForceScheduler(name="fb", builderNames=["b"]))
        """
    )
    master.start()
    succeeded(master.force("b"))
    (folder / "later").write_text("x" * 20, encoding="utf-8")
    (folder / "later").chmod(0o644)
    master.reconfig()


def test_a_folder_in_place_of_a_file_of_secrets(master: Master) -> None:
    (master.basedir / "secrets").rename(master.basedir / "before")
    (master.basedir / "secrets").write_text("a file", encoding="utf-8")
    succeeded(master.run("check-config"))


@pytest.mark.parametrize(
    "url",
    ["localhost:8010/", "http://host:port/", "http://host:99999/", "/", ""],
)
def test_a_url_of_the_page_that_is_none(master: Master, url: str) -> None:
    master.configure(f"c['buildbotURL'] = {url!r}")
    succeeded(master.run("check-config"))
    master.start()
    assert master.rest("builders")["builders"]


def test_a_port_of_litebot_toml_that_master_cfg_uses(master: Master) -> None:
    web, workers = master.ports
    toml = master.basedir / "litebot.toml"
    master.configure(f"c['www'] = {{'port': 'tcp:{workers}:interface=127.0.0.1'}}")
    said = f"{toml}: [workers] port = {workers} is not listened on"
    done = master.start()
    assert said in done.stdout + done.stderr
    master.define_builder("b", "true")
    master.reconfig()
    assert master.force("b").returncode == SUCCESS
    master.stop()
    master.configure(f"c['www'] = {{}}; c['protocols'] = {{'pb': {{'port': {web}}}}}")
    done = master.start()
    assert f"{toml}: [web] port = {web} is not listened on" in done.stdout + done.stderr


def test_a_change_source_on_the_port_for_workers(master: Master) -> None:
    workers = master.ports[1]
    master.configure(
        f"""
        c["change_source"].append(changes.PBChangeSource(port={workers}, user="u", passwd="p"))
        c["schedulers"].append(schedulers.Try_Userpass(
            name="try", builderNames=["hello"], port={workers}, userpass=[("a", "b")]))
        """
    )
    done = master.start()
    assert f"[workers] port = {workers} is not listened on" in done.stdout + done.stderr


def test_a_folder_users_of_ones_own(master: Master) -> None:
    (master.basedir / "users").unlink()
    (master.basedir / "users").mkdir()
    succeeded(master.run("check-config"))
    master.start()
    assert master.rest("builders")["builders"]
