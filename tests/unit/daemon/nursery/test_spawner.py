"""The daemon's side of the nursery, with a nursery that says what the test wants."""

from __future__ import annotations

import asyncio
import json
import socket
from typing import Any

import pytest

from papad.daemon.durable import parcel
from papad.daemon.nursery.spawner import Spawner
from tests.support.lives import until
from tests.support.papad import Store, no_new_fds


@pytest.mark.parametrize("echoed", [True, False], ids=["a nursery of ours", "one of 0.2.0, which echoes no number"])
def test_the_answer_to_another_papads_sync_is_not_taken_for_ours(echoed: bool) -> None:
    """That one was killed before it heard; what the nursery has yet to tell again would be taken for unknown to it."""

    async def recover() -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        theirs.setblocking(False)
        store = Store([("nursery", ours.detach())])
        spawner = Spawner(store, 1024)  # type: ignore[arg-type]
        heard: list[dict[str, Any]] = []
        spawner.on_report = lambda record, fds: heard.append(record)
        if echoed:
            parcel.send(theirs, {"what": "synced", "pid": 7, "number": 1})
        recovering = asyncio.ensure_future(spawner.recover())
        sync = json.loads(await asyncio.get_running_loop().sock_recv(theirs, 4096))
        assert sync["do"] == "sync"
        parcel.send(theirs, {"what": "spawned", "id": 5})
        await until(lambda: heard, "all that was said before is heard")
        assert not recovering.done()
        assert spawner.pid == 0
        parcel.send(theirs, {"what": "synced", "pid": 7} | ({"number": sync["number"]} if echoed else {}))
        await asyncio.wait_for(recovering, 20)
        assert spawner.pid == 7
        spawner.close()
        theirs.close()
        store.close()

    with no_new_fds():
        asyncio.run(recover())
