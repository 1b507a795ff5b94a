"""The records of the vault byte for byte: those of every release are understood, and a damaged one is dropped alone."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable
from dataclasses import asdict

import pytest

from papad.daemon.durable import parcel
from papad.daemon.durable.vault import Vault, rebuilt
from papad.daemon.tables.launch import Spec
from tests.support.homes import VaultHome as Home
from tests.support.papad import Store

V1 = [
    b'{"k":"value:a","set":{"value":"old"},"fds":[],"v":1}',
    b'{"k":"process:1712000000000","set":{"name":"web","spec":{"args":["/bin/cat"],"env":{},"rlimits":{},'
    b'"working_dir":null,"shell":false,"out":1,"err":1,"bufsize":1048576,"uid":null,"gid":null},"nursery":77},'
    b'"fds":["out","err","ring"],"v":1}',
    b'{"k":"process:1712000000000","set":{"pid":4437,"started":1795450637.15},"fds":["pidfd"],"v":1}',
    b'{"k":"value:a","set":{"value":"caf\\u00e9 \\udce9"},"fds":[],"v":1}',
    b'{"k":"value:b","set":{"value":"b"},"fds":[],"v":1}',
    b'{"k":"value:b","gone":true,"v":1}',
    b'{"k":"socket:web","set":{"spec":{"family":"inet","type":"stream","backlog":5,"path":null,"umask":null,'
    b'"host":"127.0.0.1","port":8080,"interface":null,"reuseport":null},"fileno":64,"node":null},"fds":[],"v":1}',
    b'{"k":"process:1712000000000","set":{"exit":[-9,1795450640.5]},"fds":[],"v":1}',
]
V1_FDS = {1: 3, 2: 1}


def start_on(store: Store, messages: list[bytes], fds: dict[int, int]) -> Vault:
    """The next papad on a log written by other hands."""
    reader, writer = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    for number, message in enumerate(messages):
        sent = [os.memfd_create(f"test-{number}") for _ in range(fds.get(number, 0))]
        socket.send_fds(writer, [message], sent)
        parcel.close_all(sent)
    store.stored["vault-1"] = reader.detach()
    writer.close()
    found = Vault(store)
    found.recover()
    return found


@pytest.fixture
def read_log(home: Home) -> Callable[..., Vault]:
    def start(messages: list[bytes], fds: dict[int, int] | None = None) -> Vault:
        home.vault = start_on(home.store, messages, fds or {})
        return home.vault

    return start


def test_records_of_version_1_are_understood_for_ever(read_log: Callable[..., Vault]) -> None:
    entries = dict(read_log(V1, V1_FDS).entries)
    process = entries.pop("process:1712000000000")
    assert {key: entry.fields for key, entry in entries.items()} == {
        "value:a": {"value": "caf\u00e9 \udce9"},
        "socket:web": json.loads(V1[6])["set"],
    }
    assert process.fds.keys() == {"out", "err", "ring", "pidfd"}
    assert process.fields.keys() == {"name", "spec", "nursery", "pid", "started", "exit"}
    assert process.fields["exit"] == [-9, 1795450640.5]


def test_this_release_writes_version_1(home: Home) -> None:
    home.write("value:a", {"value": "x"})
    home.erase("value:a")
    (fd,) = home.store.kept.values()
    with socket.socket(fileno=os.dup(fd)) as reader:
        assert [json.loads(reader.recv(4096)) for _ in range(2)] == [
            {"v": 1, "k": "value:a", "set": {"value": "x"}, "fds": []},
            {"v": 1, "k": "value:a", "gone": True},
        ]


DAMAGED = [
    b"{",
    b"\xff\xff",
    b"[]",
    b"#",
    b"{}",
    b'{"v":1}',
    b'{"v":1,"k":"value:bad"}',
    b'{"v":2,"k":"value:a","gone":true}',
    b'{"v":"x","k":"value:a","gone":true}',
    b'{"v":1,"k":"value:a","set":7,"fds":[]}',
    b'{"v":1,"k":"value:a","set":{"value":"bad"},"fds":["lost"]}',
    b'{"v":1,"k":"value:a","set":{"value":"bad"},"fds":7}',
    b'{"v":1,"k":"value:a","set":["bad"],"fds":[]}',
    b'{"v":1,"k":"value:a","set":{"value":"bad"},"fds":[["x"]]}',
    b'{"v":1,"k":["value:a"],"set":{"value":"bad"},"fds":[]}',
]


@pytest.mark.parametrize("damaged", DAMAGED, ids=lambda data: data.decode(errors="replace"))
def test_a_damaged_record_is_dropped_alone(read_log: Callable[..., Vault], damaged: bytes) -> None:
    entries = dict(read_log([V1[0], damaged, *V1[1:3]], {2: 3, 3: 1}).entries)
    assert entries.pop("value:a").fields == {"value": "old"}
    assert entries.pop("process:1712000000000").fds.keys() == {"out", "err", "ring", "pidfd"}
    assert entries == {}


def test_a_damaged_record_with_descriptors_leaves_none_open(read_log: Callable[..., Vault]) -> None:
    entries = read_log([b"{", b'{"v":1,"k":"x","set":{},"fds":["a"]}'], {0: 2, 1: 3}).entries
    assert [entry for entry in entries.values() if entry.fds] == []


def test_a_field_of_a_later_version_is_left_out_here_and_kept_for_it(home: Home) -> None:
    """So one may go a version back, and forth again."""
    later = asdict(Spec(["/bin/cat"], {}, {})) | {"note": "hello"}
    home.write("process:1", {"name": "web", "spec": later})
    home.restart()
    recorded = home.vault.entries["process:1"].fields["spec"]
    assert rebuilt(Spec, recorded) == Spec(["/bin/cat"], {}, {})
    home.vault.write("process:1", {"pid": 7})
    home.restart()
    assert home.vault.entries["process:1"].fields["spec"] == later
    with pytest.raises(TypeError):
        rebuilt(Spec, {"args": ["/bin/cat"]})
