# SPDX-License-Identifier: Apache-2.0
"""Packages that cannot be installed, and such that do not mean well."""

from __future__ import annotations

import json

import pytest

from cluster import ENVIRONMENTS, Cluster
from packages import source

ASK = """
future = clupy.parallel(version, packages=[sys.argv[1]])(sys.argv[2])
said = outcome(future)
failure = future.failure
say({**said, "failure": type(failure).__name__ if failure else None, "words": str(failure)})
"""


@pytest.fixture(scope="module", autouse=True)
def manifest(cluster: Cluster) -> None:
    cluster.manifest(packages=["alpha<2"])
    cluster.wait_default(alpha="1.1")


def test_the_installers_words_reach_the_user(cluster: Cluster) -> None:
    said = cluster.call(ASK, "broken", "broken")
    assert said["error"] == "EnvironmentFailedError"
    assert "the words of broken: its tape is worn" in said["log"]
    failed = [entry for entry in cluster.environments() if entry["state"] == "failed" and "broken" in entry["packages"]]
    assert failed
    assert "the words of broken: its tape is worn" in cluster.show(failed[0]["name"])["log"]
    shown = cluster.lab.node("client").run(["clupyctl", "env", "show", failed[0]["name"]], "user").stdout
    assert "its tape is worn" in shown


@pytest.mark.parametrize(("wanted", "word"), [("nosuchpackage", "nosuchpackage"), ("alpha>=17", "alpha")])
def test_what_does_not_exist(cluster: Cluster, wanted: str, word: str) -> None:
    said = cluster.call(ASK, wanted, "alpha")
    assert said["error"] == "EnvironmentFailedError" and word in said["log"]


def test_a_source_distribution_is_built(cluster: Cluster) -> None:
    assert cluster.call(ASK, "fromsource", "fromsource")["value"] == "1.0"


HOSTILE = """
import glob, json, os, socket, subprocess, sys
got = {}
def attempt(name, what):
    try:
        got[name] = repr(what())[:200]
    except BaseException as error:
        pass
for path in ("/etc/clupy/pki/agent.key", "/etc/clupy/pki/ca.key", "/etc/shadow", "/root/.config/clupy/user.key",
             "/run/credentials/clupy-agent.service/agent.key", "/proc/1/environ"):
    attempt("read " + path, lambda: open(path, "rb").read())
attempt("list of root's home", lambda: os.listdir("/root")[0])
for path in glob.glob("/var/lib/clupy/environments/*"):
    if path not in sys.prefix and os.path.exists(path + "/pyvenv.cfg") and ".clupy-environment" in os.listdir(path):
        attempt("see " + path, lambda: path)
        attempt("write " + path, lambda: open(path + "/lib/hostile.py", "w"))
for path in ("/usr/lib/clupy/x", "/etc/x", "/run/x", "/var/lib/clupy/x", "/usr/x"):
    attempt("write " + path, lambda: open(path, "w"))
for host, port in (("10.78.0.10", 7878), ("10.78.0.10", 22), ("10.78.0.1", 443), ("10.78.0.22", 1)):
    attempt(f"connect {host}:{port}", lambda: socket.create_connection((host, port), 1))
for path in ("/run/clupy/launcher.sock", "/run/clupy/master.sock", "/run/dbus/system_bus_socket", "/run/systemd/private",
             "/run/systemd/journal/socket"):
    def connect():
        s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM if "journal" in path else socket.SOCK_STREAM)
        s.connect(path)
        return s
    attempt("connect " + path, connect)
attempt("be root", lambda: os.setuid(0) or "root")
attempt("mount", lambda: subprocess.run(["mount", "-t", "tmpfs", "x", "/tmp"], check=True))
attempt("device", lambda: os.mknod("/tmp/device", 0o20666, os.makedev(1, 1)))
others = [pid for pid in os.listdir("/proc") if pid.isdigit()]
for pid in others:
    attempt(f"see {pid}", lambda: (lambda word: word if b"clupy-agent" in word or b"clupy-launcher" in word or
            b"systemd" in word else 1 / 0)(open(f"/proc/{pid}/cmdline", "rb").read()))
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        import time
        for descriptor in range(3):
            os.close(descriptor)
        time.sleep(1000)
        os._exit(0)
    os._exit(0)
print("IT GOT " + json.dumps(got) + " AS " + str(os.getuid()), file=sys.stderr, flush=True)
raise SystemExit(1)
"""


def test_a_hostile_package_gets_nothing(cluster: Cluster) -> None:
    assert "value" in cluster.call(ASK, "many", "many", user="root"), "somebody else's environment is there"
    source(cluster.lab.shared / "wheels", "hostile", "1.0", HOSTILE)
    before = {agent: cluster.ready_on(agent) for agent in cluster.agents}
    said = cluster.call(ASK, "hostile", "hostile")
    assert said["error"] == "EnvironmentFailedError"
    line = next(line for line in said["log"].splitlines() if "IT GOT " in line)
    got = json.loads(line.split("IT GOT ")[1].rsplit(" AS ", 1)[0])
    assert got == {}, got
    assert {agent: cluster.ready_on(agent) for agent in cluster.agents} == before
    for agent in cluster.agents:
        node = cluster.lab.node(agent)
        assert node.run(["find", ENVIRONMENTS, "/usr/lib/clupy", "-name", "hostile*"]).stdout == ""
        # What it left running is gone with its build.
        cluster.wait(lambda node=node: "clupy-build-" not in node.run(  # type: ignore[misc]
            ["systemctl", "list-units", "--plain", "--no-legend", "clupy-build-*"]).stdout, "no build is left", 30)
        assert node.run(["ls", "/var/lib/clupy/building"]).stdout == ""
    assert cluster.call(ASK, "many", "many", user="root")["value"] == "1.0"
    # Nor has it reached the resolving of others: a set that is resolved later is what it was.
    assert cluster.call(ASK, "alpha==1.0", "alpha")["value"] == "1.0"


def test_a_package_that_eats_memory_and_disk(cluster: Cluster) -> None:
    source(cluster.lab.shared / "wheels", "hungry", "1.0", "x = []\nwhile True:\n    x.append(bytearray(64 << 20))")
    said = cluster.call(ASK, "hungry", "hungry")
    assert said["error"] == "EnvironmentFailedError" and "memory" in (said["text"] + said["log"]).lower(), said
