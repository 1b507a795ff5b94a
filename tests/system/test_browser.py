"""A web page gives papad no command through a browser, nor does a URL through curl. The real ones try, as a member.

Each request is also sent to a recorder, at another port, which shows that the commands do leave the program.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.waiting import wait_until
from tests.system import papad as installed
from tests.system.machine import Machine
from tests.system.papad import MEMBER, TOOLS, UNIX, Papad
from tests.system.trees import selected_releases, tree

RECORDED = "20203"
BODIES = ["no-cors", "blob", "big", "xhr", "beacon", "form-plain", "form-parts"]
METHODS = ["method-set", "method-list", "method-exact", "method-digit", "method-odd"]
BARE = ["long", "img", "script", "frame", "websocket", "events"]
HTTP = {*BODIES, *METHODS, *BARE}
UNREADABLE = {"failed", "failed: ", "TypeError: Failed to fetch", "loaded: ", "queued: true"}
"""What comes of requests that the page learns nothing by; a frame is loaded even if it shows an error."""
PAGES = pytest.mark.parametrize(
    ("host", "rebound"),
    [("127.0.0.1", False), ("evil.example", False), ("evil.example", True)],
    ids=["by address", "by name", "rebound"],
)


@pytest.fixture(scope="module", params=selected_releases())
def machine(request: pytest.FixtureRequest, bootable: None) -> Iterator[Machine]:
    """A booted Debian with papad, Chromium and curl."""
    with Machine(tree(request.param, "browser"), f"{request.param}-browser") as machine:
        installed.install(machine)
        machine.write("/run/lines", LINES)
        yield machine


@pytest.fixture
def papad(machine: Machine) -> Papad:
    """The system's papad, which holds nothing. It is reset only where need be: this file has many small tests."""
    papad = Papad(machine)
    papad.systemctl("start", "papad.socket")
    if held(papad) != NOTHING:
        papad.reset()
    return papad


def browse(papad: Papad, host: str, port: str, rebound: bool) -> dict[str, Any]:
    """Let Chromium load the page, whose origin is the very port if it is `rebound`; what came of each request."""
    source = port if rebound else "8000"
    if rebound:
        papad.systemctl("stop", "papad.socket", "papad.service")
    command = ("/usr/bin/python3", f"{TOOLS}/browsing.py", host, port, source)
    with papad.machine.running(*command, user=MEMBER) as browsing:
        assert browsing.stdin is not None
        assert browsing.stdout is not None
        assert browsing.stdout.readline() == "loaded\n"
        papad.systemctl("start", "papad.socket")
        browsing.stdin.write("go\n")
        found: dict[str, Any] = json.loads(browsing.stdout.readline())
    return found


@PAGES
def test_the_page_sends_commands(papad: Papad, host: str, rebound: bool) -> None:
    """The control: a port that grants what the page asks for gets all of it."""
    outcomes, recorded = browse(papad, host, RECORDED, rebound).values()
    # What asks whether a request may be sent has the same path, and may have been recorded after it.
    asked = [line for line in recorded if " HTTP/1.1\r\n" in line and not line.startswith("OPTIONS ")]
    requests = {line.split(" ")[1].strip("/").partition("?")[0]: line for line in asked}
    assert set(requests) == HTTP
    for kind in BODIES + METHODS:
        assert f"\nset pwned-{kind} 1" in requests[kind].partition("\r\n\r\n")[2], requests[kind][:2000]
    methods = [requests[kind].partition(" ")[0] for kind in METHODS]
    assert methods == ["set", "list", "%set", "M1", "a!b"]
    # A page of another origin has to ask first.
    assert any(line.startswith("OPTIONS ") for line in recorded) is not rebound
    readable = {kind for kind, how in outcomes.items() if "seen" in how}
    assert readable == ({*BODIES, *METHODS, "long", "frame"} - {"beacon"} if rebound else {*METHODS, "xhr"})
    assert any(line.startswith("\x16\x03") for line in recorded), "TLS"
    assert any(line[4:8] == "\x21\x12\xa4\x42" for line in recorded), "TURN"


@PAGES
def test_papad_executes_nothing_of_what_the_page_sends(papad: Papad, host: str, rebound: bool) -> None:
    cursor = papad.machine.cursor()
    outcomes = browse(papad, host, "20202", rebound)["outcomes"]
    assert held(papad) == NOTHING
    # TLS comes once or twice.
    wait_until(lambda: dropped(papad, cursor) > len(HTTP), "as many connections were dropped as there were requests")
    assert {*HTTP, "tls", "turn"} == set(outcomes)
    assert set(outcomes.values()) <= UNREADABLE, outcomes


# What curl is told, and what then leaves it.
BODY = ("--data-binary", "@/run/lines")
NO_HEADERS = ("-H", "Host:", "-H", "User-Agent:", "-H", "Accept:", "-H", "Content-Type:", "-H", "Content-Length:")
COMMAND = "\nset pwned 1\n"
CURL = {
    "data": (("http://{at}/", "--data", "set pwned 1"), "\r\nset pwned 1"),
    "lines": (("http://{at}/", *BODY), COMMAND),
    "GET": (("http://{at}/", "-X", "get", *BODY), COMMAND),
    "M1": (("http://{at}/", "-X", "M1", *BODY), COMMAND),
    "a!b": (("http://{at}/", "-X", "a!b", *BODY), COMMAND),
    "set": (("http://{at}/", "-X", "set", *BODY), COMMAND),
    "exact set": (("http://{at}/", "-X", "%set", *BODY), COMMAND),
    "bare": (("http://{at}/", *NO_HEADERS, *BODY), COMMAND),
    "header": (("http://{at}/", "-H", "set pwned: 1", *BODY), COMMAND),
    "HTTP/1.0": (("http://{at}/", "--http1.0", *BODY), COMMAND),
    "HTTP/0.9": (("http://{at}/", "--http0.9", *BODY), COMMAND),
    "upload": (("http://{at}/", "--upload-file", "/run/lines", "-H", "Expect:"), COMMAND),
    "chunks": (("http://{at}/", "-H", "Transfer-Encoding: chunked", *BODY), COMMAND),
    "form": (("http://{at}/", "--form", "x=</run/lines"), COMMAND),
    "HTTP/2": (("http://{at}/", "--http2-prior-knowledge", *BODY), "PRI * HTTP/2.0\r\n"),
    "upgrade": (("http://{at}/", "--http2"), "\r\nUpgrade: h2c\r\n"),
    "CONNECT": (
        ("http://evil.example/", "--proxytunnel", "--proxy", "http://{at}"),
        "CONNECT evil.example:80 HTTP/1.1",
    ),
    "proxy": (("http://evil.example/", "-X", "set", "--proxy", "http://{at}", *BODY), COMMAND),
    "PROXY": (("http://{at}/", "--haproxy-protocol", *BODY), COMMAND),
    "RTSP": (("rtsp://{at}/",), " RTSP/1.0\r\n"),
    "dict": (("dict://{at}/set:pwned:1",), "\nset pwned 1\r\n"),
    "TLS": (("https://{at}/", *BODY), "\x16\x03"),
}
# What papad does not drop: all of it is unknown to papad, or the program waits for a greeting that papad does not say.
NOT_DROPPED = {
    "mqtt": (("mqtt://{at}/%0Aset%20pwned%201%0A",), "MQTT"),
    "ldap": (("ldap://{at}/dc=%0Aset%20pwned%201%0A",), "\x02\x01\x01"),
    "smb": (("smb://a:b@{at}/x/y",), "SMB"),
    "sftp": (("sftp://a:b@{at}/x", "--insecure"), "SSH-2.0"),
    "socks": (("http://evil.example/", "--proxy", "socks4a://{at}"), "evil.example"),
}
GREETED = {
    "ftp": ("ftp://{at}/x", "220 \r\n", "USER anonymous"),
    "smtp": ("smtp://{at}/set", "220 \r\n", "EHLO set"),
    "imap": ("imap://{at}/", "* OK\r\n", "CAPABILITY"),
    "pop3": ("pop3://{at}/", "+OK\r\n", "CAPA"),
}
SILENT = {name: ((url,), said) for name, (url, _, said) in GREETED.items()}
SECONDS = "2"  # for those that wait for more than papad says


def curl(machine: Machine, args: tuple[str, ...], at: str, *more: str) -> str:
    """What curl, run by a member, tells of the answer and of itself."""
    command = ("curl", "--silent", "--show-error", "--max-time", SECONDS, *more)
    done = machine.run(*command, *(arg.format(at=at) for arg in args), user=MEMBER, check=False)
    return done.stdout + done.stderr


@pytest.mark.parametrize("name", [*CURL, *NOT_DROPPED, *GREETED])
def test_curl_sends_it(machine: Machine, name: str) -> None:
    """The control."""
    args, said = (CURL | NOT_DROPPED | SILENT)[name]
    greeting = GREETED[name][1] if name in GREETED else ""
    with machine.running("/usr/bin/python3", "-c", RECORD, RECORDED, said, greeting, user=MEMBER) as recorder:
        assert recorder.stdout is not None
        assert recorder.stdout.readline() == "ready\n"
        told = curl(machine, args, f"127.0.0.1:{RECORDED}")
        assert said in json.loads(recorder.stdout.readline()), told


# Greets, and reads until what is wanted has come, or no more comes.
RECORD = """
import json, socket, sys
port, wanted, greeting = sys.argv[1:]
listener = socket.create_server(("127.0.0.1", int(port)))
print("ready", flush=True)
connection, _ = listener.accept()
connection.settimeout(5)
connection.sendall(greeting.encode())
received = ""
while wanted not in received and (data := connection.recv(1 << 16)):
    received += data.decode("latin-1")
print(json.dumps(received))
"""


@pytest.mark.parametrize("name", CURL)
def test_papad_drops_what_curl_sends(papad: Papad, name: str) -> None:
    cursor = papad.machine.cursor()
    told = curl(papad.machine, CURL[name][0], "127.0.0.1:20202")
    assert held(papad) == NOTHING
    wait_until(lambda: dropped(papad, cursor) == 1, f"the connection was dropped; curl: {told}")


def test_papad_drops_what_curl_sends_to_its_unix_socket(papad: Papad) -> None:
    cursor = papad.machine.cursor()
    requests = [args for args, _ in CURL.values() if args[0] == "http://{at}/"]
    told = [curl(papad.machine, args, "evil.example", "--unix-socket", UNIX) for args in requests]
    assert held(papad) == NOTHING
    wait_until(lambda: dropped(papad, cursor) == len(requests), f"all were dropped; curl: {told}")


@pytest.mark.parametrize("name", [*NOT_DROPPED, *SILENT])
def test_papad_executes_nothing_of_other_protocols(papad: Papad, name: str) -> None:
    told = curl(papad.machine, (NOT_DROPPED | SILENT)[name][0], "127.0.0.1:20202")
    assert held(papad) == NOTHING
    assert "internal error" not in told


def test_a_program_that_is_told_to_speak_the_protocol_is_obeyed(papad: Papad) -> None:
    """gopher sends what its URL says and nothing else, so a member's curl is a client as any."""
    curl(papad.machine, ("gopher://{at}/_set%20meant%201",), "127.0.0.1:20202")
    assert papad.ask("get meant") == "1"


def dropped(papad: Papad, cursor: str) -> int:
    """How many connections papad says since then that it has dropped."""
    return papad.machine.journal(cursor, "--unit=papad.service", "--output=cat").count("dropped a connection from")


def held(papad: Papad) -> list[str]:
    """What papad holds, which it can only tell if it answers, and how often systemd has had to start it again."""
    return [*papad.talk("list values", "list sockets", "list processes"), papad.show("NRestarts")]


NOTHING = ["", "", "", "0"]
LINES = """

set pwned 1
make socket pwned
make process pwned /bin/true
"""
