"""Nobody waits for a bad neighbour: what one client or process does, or fails to do, costs others nothing."""

from __future__ import annotations

import os
from pathlib import Path

from tests.support.nurseries import Hanging
from tests.support.papad import Probe, open_fds, running_papad, varied_copy
from tests.support.waiting import wait_until


def test_a_program_whose_exec_hangs_delays_only_the_command_that_wants_it(tmp_path: Path) -> None:
    varied_copy(tmp_path, "daemon/tables/processes.py", "_START_TIMEOUT = 30.0", "_START_TIMEOUT = 1.0")
    hanging = Hanging(tmp_path)
    with running_papad(tmp_path, cwd=tmp_path) as daemon, daemon.connect() as talk:
        assert "pid=" in talk.ask("make process before /bin/true")
        wait_until(lambda: "running=False" in talk.ask("list processes before"), "it has ended")
        before = [len(open_fds(pid)) for pid in (daemon.pid, daemon.nursery)]
        with Probe(daemon) as probe, daemon.connect() as other:
            talk.send(f"make process hangs {hanging.path}\n")
            hanging.wait()
            assert "pid=" in other.ask("make process x /bin/sh -c exit\\ 3")
            assert other.ask_line("watch processes x") == "Watching 1"
            assert other.watch_to_end() == [("closed", "x", 3)]
            answer = talk.until(b"\n> ").decode()
        assert answer.startswith(f"Error: Cannot start a process: {hanging.path} could not be executed within 1 s.")
        assert probe.longest < 0.5
        assert "hangs" not in talk.ask("list processes")
        children = Path(f"/proc/{daemon.nursery}/task/{daemon.nursery}/children")
        wait_until(lambda: children.read_text().split() == [str(daemon.pid)], "the child is gone")
        hanging.go()
        assert "pid=" in talk.ask(f"make process hangs {hanging.path}")
        talk.ask("remove processes hangs")
        wait_until(
            lambda: [len(open_fds(pid)) for pid in (daemon.pid, daemon.nursery)] == before, "nothing is left open"
        )
    os.close(hanging.fd)
