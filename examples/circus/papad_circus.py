"""Keeps the workers of circus in papad, where they outlive circus; the README beside this file says how.

As a program it stands for a worker: circus starts it, and it makes the worker in papad or finds it there, prints what
the worker prints, and ends with its exit status. Its functions before_start and before_signal are hooks of circus.
"""

import contextlib
import os
import select
import signal
import stat
import sys
import time
from fcntl import ioctl
from termios import FIONREAD

from papad import Error, Papa


def main(name, *words):
    """Run `NAME [OPTION=VALUE ...] -- COMMAND [ARGUMENT ...]`, with the options of papad's `make process`."""
    given, command = words[: words.index("--")], words[words.index("--") + 1 :]
    with Papa() as papa:
        if workers(papa, name):  # running or ended, it has output and an exit status to tell
            watcher = papa.watch_processes(name)
        else:
            where = {"env": os.environ, "working_dir": os.getcwd()}
            watcher = papa.make_process(
                name, *command[:1], command[1:], watch_immediately=True, **where, **pairs(given)
            )
        while (batch := watcher.read(timeout=None)) is not None:  # acknowledges the previous one
            deliver(1, b"".join(each.data for each in batch.out))
            deliver(2, b"".join(each.data for each in batch.err))
        code = watcher.exit_code.get(name, 1)
    return 128 - code if code < 0 else min(code, 255)


def deliver(fd, data):
    """Write, and wait until circus has read it. Raises BrokenPipeError once circus is gone."""
    while data:
        data = data[os.write(fd, data) :]
    if stat.S_ISFIFO(os.fstat(fd).st_mode):
        reader = select.poll()
        reader.register(fd, 0)  # reports only that nobody reads any more
        while not (gone := reader.poll(0)) and any(ioctl(fd, FIONREAD, bytes(4))):
            reader.poll(10)
        if gone:
            raise BrokenPipeError


def before_start(watcher, **_):
    """Make the sockets of a watcher, and have circus begin with the workers that exist."""
    with Papa() as papa:
        for key, value in watcher.options():
            if key.startswith("papad_socket."):
                papa.make_socket(key.removeprefix("papad_socket."), **pairs(value.split()))
        wids = [each["name"].removeprefix(f"{watcher.name}.") for each in workers(papa, f"{watcher.name}.*")]
    watcher._found_wids = sorted(int(wid) for wid in wids if wid.isdecimal())
    return True


def before_signal(watcher, arbiter, pid, signum, **_):
    """Send a signal to the worker instead. When circus quits, let it end only the program that stands for the worker."""
    if arbiter._stopping:
        return True
    name = f"{watcher.name}.{watcher.processes[pid].wid}"
    deadline = time.monotonic() + 5
    with Papa() as papa:
        while not (found := workers(papa, name)):  # not made yet, or that program has told its end and ends, too
            if not watcher.processes[pid].is_alive() or time.monotonic() > deadline:
                return True
            time.sleep(0.01)
        if found[0]["running"]:
            send(papa, found[0], signum)
        if signum == signal.SIGKILL:  # circus kills that program too, which then cannot take note of the end
            papa.remove_processes(name)
    return False


def send(papa, worker, signum):
    """Signal a worker that runs, and no other process that may have got its pid; wait for the end at SIGKILL."""
    with contextlib.suppress(ProcessLookupError):  # it has just ended
        fd = os.pidfd_open(worker["pid"])
        try:
            if any(each["running"] and each["id"] == worker["id"] for each in workers(papa, worker["name"])):
                signal.pidfd_send_signal(fd, signum)
                end = select.poll()
                end.register(fd, select.POLLIN)
                end.poll(5000 if signum == signal.SIGKILL else 0)
        finally:
            os.close(fd)


def workers(papa, pattern):
    """Describe the processes of papad that match, but those that were removed."""
    return [each for each in papa.describe("processes", pattern) if not each["removed"]]


def pairs(words):
    """Return options as a mapping."""
    return dict(word.split("=", 1) for word in words)


if __name__ == "__main__":
    try:
        sys.exit(main(*sys.argv[1:]))
    except BrokenPipeError:
        sys.exit(1)
    except Error as error:
        sys.exit(f"{sys.argv[1]}: {error}")
