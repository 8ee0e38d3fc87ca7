# SPDX-License-Identifier: Apache-2.0
"""Who is not let in, or not believed: each is told why, the journal says who, from where, what; nobody else notices."""

from __future__ import annotations

import shutil
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest
from witnesses import BY_HAND, ON_NODES, Caller, Records, authority, caller, journal, main_pid, nodes, now

from certificates import DAY, Authority

if TYPE_CHECKING:
    from labtool.lab import Lab
    from labtool.node import Node

AGENTS = 2

Wait = Callable[..., None]

CALL = "import clupy\nprint(clupy.parallel(abs, cpus=0.1, memory='64M')(-7).result(20))"


@pytest.fixture(scope="module")
def issuer(lab: Lab) -> Authority:
    """Of the lab's authority: what it never would have issued."""
    made = authority(lab)
    made.user("eve")
    made.issue("agent1", ["URI:clupy:agent:agent1"])
    made.user("expired", begin=-2 * DAY, end=-DAY)
    made.user("early", begin=DAY, end=2 * DAY)
    made.issue("nameless", ["DNS:client"])
    made.issue("double", ["URI:clupy:user:eve", "URI:clupy:admin:eve"])
    made.issue("server-eve", ["URI:clupy:user:eve", "DNS:agent2"], "serverAuth, clientAuth")
    other = Authority(made.folder / "other")
    shutil.copy(other.user("eve").certificate, made.folder / "foreign.crt")
    shutil.copy(other.folder / "eve.key", made.folder / "foreign.key")
    return made


@pytest.fixture(scope="module")
def witness(lab: Lab) -> Iterator[Caller]:
    with caller(lab) as made:
        yield made


@pytest.fixture(autouse=True)
def undisturbed(lab: Lab, witness: Caller) -> Iterator[None]:
    """Around each test: another user's calls over its one connection, the master, and the nodes."""
    pid = main_pid(lab.node("master"), "clupy-masterd")
    yield
    witness.check()
    assert main_pid(lab.node("master"), "clupy-masterd") == pid
    assert nodes(lab) == {"agent1": "ready", "agent2": "ready"}


def as_user(file: str) -> list[str]:
    """The environment in which clients and clupyctl take this certificate."""
    return [f"CLUPY_TLS_CERTIFICATE={ON_NODES}/{file}.crt", f"CLUPY_TLS_KEY={ON_NODES}/{file}.key",
            f"CLUPY_TLS_AUTHORITY={ON_NODES}/ca.crt"]


def attempt(lab: Lab, text: str) -> str:
    """The line that says what it came to."""
    return lab.node("client").python(f"{BY_HAND}\nattempt({text})", "root").stdout.strip()


def refused(lab: Lab, text: str, *words: str, answer: str, wait_until: Wait) -> None:
    """By hand, and in the journal with these words. It tells of one address once a second."""
    records = Records(lab)

    def told() -> bool:
        assert answer in attempt(lab, text)
        return records.refusal("10.78.0.11:", *words) is not None

    wait_until(told, 10, f"a record of the refusal with {words}")


@pytest.mark.parametrize("file", ["eve", "server-eve"])
def test_user_as_node(lab: Lab, issuer: Authority, file: str, wait_until: Wait) -> None:
    for name in ("agent1", "agent3", "eve"):
        refused(lab, f"'{file}', role='agent', name='{name}'", "user eve", "a node needs one of the role agent",
                answer="REFUSED not-allowed The certificate is that of user eve", wait_until=wait_until)


def test_agent_as_another(lab: Lab, issuer: Authority, wait_until: Wait) -> None:
    """Nor does the one that there is lose its connection."""
    records = Records(lab)
    refused(lab, "'agent1', role='agent', name='agent2'", "agent agent1", "no other can be served with it",
            answer="REFUSED not-allowed The certificate is that of node agent1", wait_until=wait_until)
    assert not [record for record in records.all() if "takes over" in record["MESSAGE"]]
    # The real one, which was told another name. Where it has been is where it comes back.
    node = lab.node("agent2")
    pid = main_pid(node, "clupy-agent")
    certificate = node.run(["cat", "/etc/clupy/pki/agent.crt"]).stdout
    key = node.run(["cat", "/etc/clupy/pki/agent.key"]).stdout
    mark = now(node)
    try:
        for end in ("crt", "key"):
            node.run(["sh", "-c", f"cat {ON_NODES}/agent1.{end} > /etc/clupy/pki/agent.{end}"])
        node.run(["systemctl", "restart", "clupy-agent"], check=False)
        wait_until(lambda: records.refusal("10.78.0.22:", "agent agent1") is not None
                   or "agent1" in journal(node, mark, "clupy-agent"), 10, "a record at the master or at the node")
        assert nodes(lab)["agent2"] != "ready"
    finally:
        for end, text in (("crt", certificate), ("key", key)):
            node.run(["sh", "-c", f"cat > /etc/clupy/pki/agent.{end}"], input=text)
        node.run(["systemctl", "reset-failed", "clupy-agent"], check=False)
        node.run(["systemctl", "restart", "clupy-agent"])
    wait_until(lambda: nodes(lab)["agent2"] == "ready", 20, "agent2 is back")
    assert main_pid(node, "clupy-agent") != pid


def test_agent_as_user(lab: Lab, issuer: Authority, wait_until: Wait) -> None:
    for role in ("client", "operator"):
        refused(lab, f"'agent1', role='{role}', user='agent1'", "agent agent1", "calls need one of the role user or admin",
                answer="REFUSED not-allowed The certificate is that of agent agent1", wait_until=wait_until)


def test_user_as_another(lab: Lab, issuer: Authority, wait_until: Wait) -> None:
    for role in ("client", "operator"):
        for name in ("root", "user"):
            refused(lab, f"'eve', role='{role}', user='{name}'", "eve", f"cannot be {name}",
                    answer=f"REFUSED not-allowed You are eve and cannot be {name}", wait_until=wait_until)


BAD = [
    ("expired", "certificate expired", "user expired", r"has expired on 20", "clupyctl pki issue user NAME"),
    ("early", "bad certificate", "user early", "is not yet valid, only from 20", "ask"),
    ("foreign", "unknown ca", "user eve", "is not of this cluster's authority", "ask"),
    ("nameless", "bad certificate", "The certificate with the serial", "has no clupy: name", "ask"),
    ("double", "bad certificate", "The certificate with the serial", "clupy: name", "ask"),
]


@pytest.mark.parametrize(("file", "alert", "who", "what", "advice"), BAD, ids=[case[0] for case in BAD])
def test_certificates_that_are_no_good(lab: Lab, issuer: Authority, file: str, alert: str, who: str, what: str,
                                       advice: str, wait_until: Wait) -> None:
    for role in ("client", "operator", "agent"):
        assert alert in attempt(lab, f"'{file}', role='{role}', name='agent3'")
    refused(lab, f"'{file}', 'JOIN', {{}}", who, what, answer=alert, wait_until=wait_until)
    client = lab.node("client")
    done = client.run(["python3", "-c", CALL], check=False, environment=as_user(file))
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 1 and last.startswith("clupy._failures.NotAllowedError"), done.stderr
    assert f"{file}.crt" in last and advice in last, last
    done = client.run(["clupyctl", "nodes"], check=False, environment=as_user(file))
    assert done.returncode != 0 and f"{file}.crt" in done.stderr, done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr


def test_tls_1_2(lab: Lab, issuer: Authority, wait_until: Wait) -> None:
    refused(lab, "'eve', role='client', version=ssl.TLSVersion.TLSv1_2", "does not speak TLS 1.3, and nothing older is",
            answer="protocol version", wait_until=wait_until)
    assert ssl.TLSVersion.TLSv1_2 < ssl.TLSVersion.TLSv1_3


def test_no_certificate(lab: Lab, issuer: Authority, wait_until: Wait) -> None:
    """All that is heard is JOIN."""
    for role in ("client", "operator", "agent"):
        refused(lab, f"'', role='{role}', name='agent3', user='eve'", "somebody", "nobody without a certificate",
                answer="REFUSED not-allowed This master takes nobody without a certificate", wait_until=wait_until)
    said = lab.node("client").python(BY_HAND + """
for kind in sorted(set(TYPES) - {"HELLO", "JOIN", "RENEW"}):
    attempt("", kind, {"id": 1, "verb": "tasks", "tasks": [], "attempts": [], "jobs": [], "stream": 1})
""", "root").stdout.splitlines()
    assert len(said) > 20 and all(line.startswith("closed") for line in said), said
    assert "REFUSED not-allowed" in attempt(lab, "'', 'RENEW', {'serial': '01' * 16, 'request': 'x'}")
    refused(lab, "'', 'JOIN', {'token': '0' * 16, 'secret': '0' * 32, 'node': 'agent3', 'request': 'x'}", "node agent3",
            answer="REFUSED", wait_until=wait_until)
    assert "agent3" not in nodes(lab)


def test_plaintext(lab: Lab, issuer: Authority, wait_until: Wait) -> None:
    records = Records(lab)
    text = BY_HAND + ('frame = hello(Wire("master", 7878, way=ways.Plain()), "client", user="root")\n'
                      'print(frame.type, frame.json["error"], frame.json["message"])')

    def told() -> bool:
        said = lab.node("client").python(text, "root").stdout
        assert said.startswith("REFUSED not-allowed This master speaks TLS on this address")
        return records.refusal("10.78.0.11:", "speaks plaintext") is not None

    wait_until(told, 10, "a record of it")


def test_many_are_told_of_once_a_second(lab: Lab, issuer: Authority, wait_until: Wait) -> None:
    """And then counted."""
    records = Records(lab)
    begin = time.monotonic()
    lab.node("client").python(BY_HAND + "\nfor _ in range(40):\n    attempt('expired', role='client')", "root")
    seconds = time.monotonic() - begin
    told = [record for record in records.all() if "user expired" in record["MESSAGE"]]
    assert len(told) <= seconds + 2
    refused(lab, "'expired', role='client'", "more of this address since", answer="certificate expired",
            wait_until=wait_until)


# Those who say that they are the master.

# A TLS server with a client's certificate. It says what was said to it after the handshake, in bytes.
IMPOSTOR = f"""
import socket, ssl, sys
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.minimum_version = ssl.TLSVersion.TLSv1_3
context.load_cert_chain(sys.argv[1], sys.argv[2])
context.load_verify_locations("{ON_NODES}/ca.crt")
context.verify_mode = ssl.CERT_OPTIONAL
listener = socket.create_server(("", 7979), backlog=100)
print("listens", flush=True)
while True:
    plain, _ = listener.accept()
    plain.settimeout(10)
    try:
        with context.wrap_socket(plain, server_side=True) as peer:
            print("heard", len(peer.recv(65536)), flush=True)
    except OSError as error:
        print("ended", error, flush=True)
"""


@pytest.mark.parametrize("file", ["user", "server-eve"])
def test_user_as_master(lab: Lab, issuer: Authority, file: str, wait_until: Wait) -> None:
    """user: what any user has in hand; server-eve: as if it had been made for a server, and for this one's name."""
    impostor, node, client = lab.node("agent2"), lab.node("agent1"), lab.node("client")
    folder = "/home/user/.config/clupy" if file == "user" else ON_NODES
    configuration = node.run(["cat", "/etc/clupy/clupy.server.yaml"]).stdout
    with impostor.popen(["python3", "-c", IMPOSTOR, f"{folder}/{file}.crt", f"{folder}/{file}.key"],
                        stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "listens\n"
            done = client.run(["python3", "-c", CALL], "user", check=False, environment=["CLUPY_MASTER_URL=agent2:7979"])
            last = done.stderr.strip().splitlines()[-1]
            assert last.startswith("clupy._failures.ConnectError: no connection to a CluPy master (agent2:7979: "), done.stderr
            assert "no master" in last
            done = client.run(["clupyctl", "--master", "clupy://agent2:7979", "nodes"], "user", check=False)
            assert done.returncode != 0 and "it is not the master, do not trust it" in done.stderr, done.stderr
            mark = now(node)
            node.write("/etc/clupy/clupy.server.yaml", configuration.replace("master:7878", "agent2:7979"))
            node.run(["systemctl", "restart", "clupy-agent"])
            wait_until(lambda: "it is not the master, do not trust it" in journal(node, mark, "clupy-agent", "--priority=warning"), 10,
                       "a record at the node")
            assert "ask who runs agent2" in journal(node, mark, "clupy-agent", "--priority=warning")
        finally:
            node.write("/etc/clupy/clupy.server.yaml", configuration)
            node.run(["systemctl", "restart", "clupy-agent"])
            process.kill()
        said = process.stdout.read().splitlines()
    assert len(said) >= 3 and not [line for line in said if line.startswith("heard") and line != "heard 0"], said
    wait_until(lambda: nodes(lab)["agent1"] == "ready", 20, "agent1 is back")


def test_master_under_another_name(lab: Lab, issuer: Authority, wait_until: Wait) -> None:
    client, node = lab.node("client"), lab.node("agent1")
    for machine in (client, node):
        machine.run(["sh", "-c", "sed -n 's/ master$/ elsewhere/p' /etc/hosts >> /etc/hosts"])
    done = client.run(["python3", "-c", CALL], "user", check=False, environment=["CLUPY_MASTER_URL=elsewhere"])
    assert "the server's certificate is not for the name elsewhere" in done.stderr.splitlines()[-1], done.stderr
    done = client.run(["clupyctl", "--master", "clupy://elsewhere", "nodes"], "user", check=False)
    assert "The master's certificate is not for elsewhere but for master" in done.stderr, done.stderr
    configuration = node.run(["cat", "/etc/clupy/clupy.server.yaml"]).stdout
    records, mark = Records(lab), now(node)
    try:
        node.write("/etc/clupy/clupy.server.yaml", configuration.replace("master:7878", "elsewhere:7878"))
        node.run(["systemctl", "restart", "clupy-agent"])
        wait_until(lambda: "not for elsewhere but for master" in journal(node, mark, "clupy-agent", "--priority=warning"), 10, "a record")
        wait_until(lambda: records.refusal("10.78.0.21:") is not None, 5, "a record at the master")
    finally:
        node.write("/etc/clupy/clupy.server.yaml", configuration)
        node.run(["systemctl", "restart", "clupy-agent"])
    wait_until(lambda: nodes(lab)["agent1"] == "ready", 20, "agent1 is back")


def test_agent_with_an_expired_certificate(lab: Lab, issuer: Authority, wait_until: Wait) -> None:
    """Nor is one taken for a new one while the agent runs: its connection, with what is valid, stays."""
    node = lab.node("agent1")
    certificate = node.run(["cat", "/etc/clupy/pki/agent.crt"]).stdout
    key = lab.directory / "pki/agent-agent1/agent.key"
    issuer.issue("late-agent1", ["URI:clupy:agent:agent1"], begin=-2 * DAY, end=-DAY, key=key)
    records, mark = Records(lab), now(node)
    try:
        node.run(["sh", "-c", f"cp {ON_NODES}/late-agent1.crt /etc/clupy/pki/new && mv /etc/clupy/pki/new /etc/clupy/pki/agent.crt"])
        node.run(["systemctl", "restart", "clupy-agent"])
        wait_until(lambda: "has expired on 20" in journal(node, mark, "clupy-agent", "--priority=warning"), 10, "a record at the node")
        wait_until(lambda: records.refusal("10.78.0.21:", "agent agent1", "has expired on 20") is not None, 10,
                   "a record at the master")
        assert "/etc/clupy/pki/agent.crt" in journal(node, mark, "clupy-agent", "--priority=warning")
        assert nodes(lab)["agent1"] != "ready"
    finally:
        node.run(["sh", "-c", "cat > /etc/clupy/pki/new && mv /etc/clupy/pki/new /etc/clupy/pki/agent.crt"], input=certificate)
    # And it comes back by itself.
    wait_until(lambda: nodes(lab)["agent1"] == "ready", 20, "agent1 is back")


# Says what becomes of its open connection, and of a call that runs for ever.
OPEN = BY_HAND + """
import time
wire = connect("mallory")
print(hello(wire, "client").type, flush=True)
try:
    while True:
        wire.receive(60)
except Closed as error:
    print("closed", error, flush=True)
"""

RUNS = """
import sys, time
import clupy
future = clupy.parallel(time.sleep, cpus=0.1, memory="64M")(100)
while not future.running():
    time.sleep(0.05)
print("runs", flush=True)
try:
    future.result(30)
except BaseException as error:
    print(type(error).__name__, error, flush=True)
"""


def test_revoked(lab: Lab, issuer: Authority, witness: Caller, wait_until: Wait) -> None:
    master, client = lab.node("master"), lab.node("client")
    master.run(["clupyctl", "pki", "issue", "user", "mallory", "--out", "/root/mallory"])
    for end in ("crt", "key"):
        (issuer.folder / f"mallory.{end}").write_text(master.run(["cat", f"/root/mallory/user.{end}"]).stdout)
        (issuer.folder / f"mallory.{end}").chmod(0o600)
    with client.popen(["python3", "-c", OPEN], stdout=subprocess.PIPE) as by_hand, \
            client.popen(["python3", "-c", RUNS], environment=as_user("mallory"), stdout=subprocess.PIPE) as runs:
        try:
            assert by_hand.stdout is not None and runs.stdout is not None
            assert by_hand.stdout.readline() == "WELCOME\n"
            assert runs.stdout.readline() == "runs\n"
            records = Records(lab)
            master.run(["clupyctl", "pki", "revoke", "mallory"])
            begin = time.monotonic()
            assert by_hand.stdout.readline().startswith("closed")
            assert time.monotonic() - begin < 5
            witness.check()
            wait_until(lambda: records.refusal("Closed the connection of user mallory at 10.78.0.11:", "has been revoked")
                       is not None, 5, "a record")
            # Its client tries again, and is told.
            line = runs.stdout.readline()
            assert line.startswith("NotAllowedError") and "mallory.crt" in line and "revoked" in line, line
        finally:
            by_hand.kill()
            runs.kill()
    refused(lab, "'mallory', role='client'", "user mallory", "has been revoked", answer="revoked", wait_until=wait_until)
    refused(lab, "'mallory', 'RENEW', {'serial': '00', 'request': 'x'}", "user mallory", "has been revoked", answer="revoked",
            wait_until=wait_until)
    done = client.run(["clupyctl", "nodes"], check=False, environment=as_user("mallory"))
    assert done.returncode != 0 and "revoked" in done.stderr, done.stderr
