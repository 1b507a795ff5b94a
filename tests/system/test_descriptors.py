"""No descriptor is left open by what has come and gone."""

from __future__ import annotations

import json
from collections import Counter

from tests.support.waiting import wait_until
from tests.system.papad import TOOLS, Papad

BATCHES, BATCH = 10, 100

# Every fifth process of a batch cannot be started; each of the others writes a line and ends. Prints how many did.
ROUND = f"""
import json, sys
from talk import Talk

def command(number):
    return "/does/not/exist" if number % 5 == 0 else "/bin/echo hello"

with Talk(sys.argv[1]) as talk:
    replies = [talk.ask(f"make process p{{n}} {{command(n)}}") for n in range({BATCH})]
    records = talk.watch()
    print(json.dumps([
        sum("running=" in reply for reply in replies),
        sum(reply.startswith("Error: ") for reply in replies),
        sum(record.data == b"hello\\n" for record in records if record.kind == "out"),
        sum(record.data == b"0" for record in records if record.kind == "closed"),
        talk.ask("list processes"),
    ]))
"""


def a_round(papad: Papad) -> list[object]:
    env = {"PYTHONPATH": TOOLS}
    done: list[object] = json.loads(papad.machine.out("/usr/bin/python3", "-c", ROUND, papad.where, env=env))
    return done


def test_a_thousand_processes_leave_no_descriptor_behind(papad: Papad) -> None:
    papad.ask("make socket kept")
    good = BATCH * 4 // 5
    expected = [good, BATCH - good, good, good, ""]
    assert a_round(papad) == expected  # also opens whatever is opened once only
    pids = {"papad": papad.main_pid(), "nursery": papad.nursery_pid()}
    stored = papad.show("NFileDescriptorStore")
    before = {who: kinds(papad, pid) for who, pid in pids.items()}
    for _ in range(BATCHES):
        assert a_round(papad) == expected
    for who, pid in pids.items():
        wait_until(
            lambda who=who, pid=pid: kinds(papad, pid) == before[who],  # type: ignore[misc]
            f"{who} has the descriptors again that it had: {before[who]}",
        )
    assert pids == {"papad": papad.main_pid(), "nursery": papad.nursery_pid()}
    assert papad.show("NFileDescriptorStore") == stored


def kinds(papad: Papad, pid: int) -> Counter[str]:
    """How many descriptors of each kind a process has open."""
    return Counter(target.partition("[")[0].partition(":")[0] for target in papad.descriptors(pid).values())


# What systemd was told to drop it may close later than it says that it is done.
AGAIN = """
import socket, sys
from talk import Talk

port = int(sys.argv[2])
with Talk(sys.argv[1]) as talk:
    for _ in range(200):
        for line in (f"make socket again port={port}", "remove sockets again", f"make socket again port={port}", "remove sockets again"):
            reply = talk.ask(line)
            assert not reply.startswith("Error"), (line, reply)
        socket.create_server(("127.0.0.1", port)).close()
"""


def test_the_address_of_a_removed_socket_is_free_for_papad_and_for_others(papad: Papad) -> None:
    papad.machine.run("/usr/bin/python3", "-c", AGAIN, papad.where, "18080", env={"PYTHONPATH": TOOLS})
