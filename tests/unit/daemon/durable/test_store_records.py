"""The store byte for byte: the records of every release are understood, and what this one does not know is kept."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict

import pytest

from papad.daemon.durable.store import LaterFormat, Store, rebuilt, recorded
from papad.daemon.tables.launch import Spec
from papad.daemon.tables.sockets import Spec as SocketSpec
from tests.support.papad import no_new_fds

SIZE = 1 << 62
V1 = [
    b'{"key":"server","set":{"starts":1}}',
    b'{"key":"value:a","set":{"value":"old"}}',
    b'{"key":"process:1712000000000","set":{"name":"web","spec":{"args":["/bin/cat"],"env":{"A":"b"},"rlimits":{},'
    b'"bufsize":1048576},"nursery":77,"range":[268439552,1310848],"fds":["out-1712000000000","err-1712000000000"],'
    b'"inodes":[501,502]}}',
    b'{"key":"process:1712000000000","set":{"pid":4437,"started":1795450637.15,"ticks":887123}}',
    b'{"key":"value:a","set":{"value":"caf\\u00e9 \\udce9"}}',
    b'{"key":"value:b","set":{"value":"b"}}',
    b'{"key":"value:b","gone":true}',
    b'{"key":"socket:web","set":{"spec":{"family":"inet","type":"stream","backlog":5,"host":"127.0.0.1","port":8080},'
    b'"fileno":64,"fds":["socket-64-web"]}}',
    b'{"key":"socket:x","set":{"spec":{"family":"unix","type":"stream","backlog":5,"path":"/run/x","umask":18},'
    b'"fileno":65,"node":[25,1033],"fds":["socket-65-x"]}}',
    b'{"key":"process:1712000000000","set":{"exit":[-9,1795450640.5]}}',
    b'{"key":"process:1712000000000","set":{"ticks":null}}',
    b'{"key":"server","set":{"starts":2}}',
]


def header(start: int, length: int, *, format: int = 1, magic: bytes = b"papad/st") -> bytes:
    return magic + b"".join(number.to_bytes(8, sys.byteorder) for number in (format, start, length))


@pytest.fixture
def written() -> Iterator[Callable[..., int]]:
    """Makes a file by other hands; nothing is left open."""
    made: list[int] = []

    def write(lines: list[bytes], start: int = 4096, **different: int | bytes) -> int:
        data = b"".join(line + b"\n" for line in lines)
        fd = os.memfd_create("test")
        made.append(fd)
        os.ftruncate(fd, SIZE)
        os.pwrite(fd, data + b"what the length does not count\n", start)
        os.pwrite(fd, header(start, len(data), **different), 0)  # type: ignore[arg-type]
        return fd

    with no_new_fds():
        yield write
        while made:
            os.close(made.pop())


def log_of(store: Store) -> list[bytes]:
    """The lines of the log, by the bytes of the file alone."""
    head = os.pread(store.fd, 32, 0)
    assert head[:16] == header(0, 0)[:16]
    start, length = (int.from_bytes(head[at : at + 8], sys.byteorder) for at in (16, 24))
    return os.pread(store.fd, length, start).splitlines()


def test_records_of_format_1_are_understood_for_ever(written: Callable[..., int]) -> None:
    found = Store(written(V1, start=1 << 40))
    entries = dict(found.entries)
    process = entries.pop("process:1712000000000")
    assert entries == {
        "server": {"starts": 2},
        "value:a": {"value": "caf\u00e9 \udce9"},
        "socket:web": json.loads(V1[7])["set"],
        "socket:x": json.loads(V1[8])["set"],
    }
    assert process == {
        **json.loads(V1[2])["set"],
        "pid": 4437,
        "started": 1795450637.15,
        "exit": [-9, 1795450640.5],
    }
    assert rebuilt(Spec, process["spec"]) == Spec(["/bin/cat"], {"A": "b"}, {}, bufsize=1 << 20)
    assert rebuilt(SocketSpec, entries["socket:x"]["spec"]) == SocketSpec("unix", "stream", 5, path="/run/x", umask=18)
    assert recorded(SocketSpec("unix", "stream", 5, path="/run/x", umask=18)) == entries["socket:x"]["spec"]
    assert found.names == {"out-1712000000000", "err-1712000000000", "socket-64-web", "socket-65-x"}


def test_this_release_writes_format_1() -> None:
    with no_new_fds():
        store = Store.create()
        assert os.pread(store.fd, 4096, 0) == header(4096, 0).ljust(4096, b"\0")
        assert os.fstat(store.fd).st_size == SIZE
        store.write("value:a", {"value": "caf\u00e9 \udce9\n"})
        store.begin("process:1", {"range": (8192, 10), "fds": ["out-1"]})
        store.write("process:1", {"fds": None})
        store.erase("value:a")
        lines = [
            b'{"key":"value:a","set":{"value":"caf\\u00e9 \\udce9\\n"}}',
            b'{"key":"process:1","set":{"range":[8192,10],"fds":["out-1"]}}',
            b'{"key":"process:1","set":{"fds":null}}',
            b'{"key":"value:a","gone":true}',
        ]
        assert log_of(store) == lines
        length = sum(map(len, lines)) + 4
        assert os.pread(store.fd, 32, 0) == header(4096, length)
        store.compact()
        assert log_of(store) == [b'{"key":"process:1","set":{"range":[8192,10]}}']
        store.close()


DAMAGED = [
    b"",
    b"{",
    b"\xff\xff",
    b"\0\0\0\0",
    b"[]",
    b"null",
    b"7",
    b'"value:a"',
    b"[" * 100_000,
    b"9" * 5000,
    b"{}",
    b'{"key":"value:bad"}',
    b'{"set":{"value":"bad"}}',
    b'{"gone":true}',
    b'{"key":7,"gone":true}',
    b'{"key":"value:a","gone":false}',
    b'{"key":"value:a","gone":"yes"}',
    b'{"key":"value:a","set":7}',
    b'{"key":"value:a","set":["bad"]}',
    b'{"key":"value:a","set":{"value":"bad"},"gone":true',
    b'{"key":["value:a"],"set":{"value":"bad"}}',
    b'{"key":"value:a","set":{"value":"bad","fds":7}}',
    b'{"key":"value:a","set":{"value":"bad","fds":"socket-64-web"}}',
    b'{"key":"value:a","set":{"value":"bad","fds":[["x"]]}}',
    b'{"key":"value:a","set":{"value":"bad","fds":{"x":1}}}',
    b'{"key":"value:a","set":{"va\rlue":"bad"}}',
    b'{"key":"value:a","set":{"value":"bad"}},{"key":"value:a","set":{"value":"bad"}}',
]


@pytest.mark.parametrize("damaged", DAMAGED, ids=lambda data: repr(data[:60]))
def test_a_damaged_record_is_left_out_alone(
    written: Callable[..., int], damaged: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    found = Store(written([*V1[1:4], damaged, *V1[5:8]]))
    undamaged = Store(written([*V1[1:4], *V1[5:8]]))
    assert found.entries == undamaged.entries
    assert found.entries.keys() == {"value:a", "process:1712000000000", "socket:web"}
    assert "leaving out a record of the store" in caplog.text
    found.write("value:c", {"value": "c"})
    found.compact()
    assert Store(found.fd).entries == undamaged.entries | {"value:c": {"value": "c"}}
    assert all(json.loads(line) for line in log_of(found))


def test_of_many_records_only_those_that_are_damaged_are_left_out(written: Callable[..., int]) -> None:
    lines = [b'{"key":"value:%d","set":{"value":"%d"}}' % (number, number) for number in range(3000)]
    lines[7] = lines[2500] = b"{"
    found = Store(written(lines)).entries
    assert found == {f"value:{number}": {"value": str(number)} for number in range(3000) if number not in (7, 2500)}


def test_a_log_that_ends_before_its_length_is_read_as_far_as_it_goes(
    written: Callable[..., int], caplog: pytest.LogCaptureFixture
) -> None:
    fd = written(V1)
    os.ftruncate(fd, 4096 + len(V1[0]) + 1 + len(V1[1]) + 1 + 10)
    assert Store(fd).entries == {"server": {"starts": 1}, "value:a": {"value": "old"}}
    assert "the store's log is too short" in caplog.text


LATER = [
    b'{"key":"timer:1","set":{"every":[1,{"unit":"h"}],"fds":["timer-1"],"range":[1099511627776,5000]}}',
    b'{"key":"process:1","set":{"name":"web","spec":{"args":["/bin/cat"],"env":{},"rlimits":{},"note":"hello"}},'
    b'"because":"a later papad says more in a record"}',
    b'{"key":"process:1","set":{"watched":{"by":["x"]}}}',
    b'{"key":"no colon","set":{}}',
]


def test_fields_and_kinds_of_a_later_version_are_kept_over_amendment_compaction_and_restart(
    written: Callable[..., int],
) -> None:
    """So one may go a version back, and forth again."""
    found = Store(written(LATER))
    os.pwrite(found.fd, b"in the range", 1 << 40)
    expected = {json.loads(line)["key"]: json.loads(line)["set"] for line in (*LATER[:2], LATER[3])}
    expected["process:1"]["watched"] = {"by": ["x"]}
    assert found.entries == expected
    assert rebuilt(Spec, found.entries["process:1"]["spec"]) == Spec(["/bin/cat"], {}, {})
    found.write("process:1", {"pid": 7})
    expected["process:1"]["pid"] = 7
    for _ in range(2):
        found.compact()
        found.sweep()
        found = Store(found.fd)
        assert found.entries == expected
        assert found.names == {"timer-1"}
        assert os.pread(found.fd, 12, 1 << 40) == b"in the range"
    assert found.allocate(1) >= (1 << 40) + 5000


@pytest.mark.parametrize("different", [{"format": 2}, {"format": (1 << 64) - 1}, {"magic": b"other/st"}], ids=repr)
def test_a_later_format_is_refused_and_left_byte_for_byte_as_it_is(
    written: Callable[..., int], different: dict[str, int | bytes]
) -> None:
    fd = written(V1, **different)
    before = os.pread(fd, 1 << 20, 0), os.fstat(fd).st_blocks, os.fstat(fd).st_size
    with pytest.raises(LaterFormat, match=r"and this papad knows 1$"):
        Store(fd)
    assert (os.pread(fd, 1 << 20, 0), os.fstat(fd).st_blocks, os.fstat(fd).st_size) == before


def test_a_dataclass_is_recorded_by_what_differs_from_its_defaults_and_rebuilt() -> None:
    spec = Spec(["/bin/cat"], {}, {"nofile": 5}, journal=True)
    assert recorded(spec) == {"args": ["/bin/cat"], "env": {}, "rlimits": {"nofile": 5}, "journal": True}
    assert rebuilt(Spec, recorded(spec)) == spec
    assert rebuilt(Spec, asdict(spec) | {"note": "of a later version"}) == spec
    inet = SocketSpec("inet", "stream", 5, port=8080, sockopts={"sndbuf": 7})
    assert recorded(inet) == {"family": "inet", "type": "stream", "backlog": 5, "port": 8080, "sockopts": {"sndbuf": 7}}
    assert "sockopts" not in recorded(SocketSpec("inet", "stream", 5))
    assert rebuilt(SocketSpec, recorded(inet)) == inet
    with pytest.raises(TypeError):
        rebuilt(Spec, {"args": ["/bin/cat"]})
