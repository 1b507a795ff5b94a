"""Reads what `output -o export` writes."""

from __future__ import annotations


def read_export(data: bytes) -> list[dict[str, bytes]]:
    """Entries of the Journal Export Format."""
    entries: list[dict[str, bytes]] = [{}]
    while data:
        head, _, data = data.partition(b"\n")
        key, equals, value = head.partition(b"=")
        if not head:
            entries.append({})
        elif equals:
            entries[-1][key.decode()] = value
        else:
            size = int.from_bytes(data[:8], "little")
            entries[-1][key.decode()] = data[8 : 8 + size]
            assert data[8 + size : 9 + size] == b"\n"
            data = data[9 + size :]
    assert not entries.pop()
    return entries
