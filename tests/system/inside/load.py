"""Open connections to a worker at a steady rate until standard input ends; then report as JSON.

    load.py PORT CONNECTIONS_PER_SECOND [PATH]

Every connection has to be accepted and answered. One that is late is made up for, so the rate holds on average.
With PATH it asks for that by HTTP; the answer is then the body.
"""

import contextlib
import json
import select
import socket
import sys
import time


def one(port: int, request: bytes) -> str:
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(request)
        answer = connection.makefile(newline="").read().rpartition("\r\n\r\n")[2].strip()
    if not answer:
        raise ConnectionResetError("closed without an answer")
    return answer


def main() -> None:
    port, rate = int(sys.argv[1]), float(sys.argv[2])
    request = f"GET {sys.argv[3]} HTTP/1.0\r\n\r\n".encode() if len(sys.argv) > 3 else b"who\n"
    answers: set[str] = set()
    failures: list[str] = []
    start = time.monotonic()
    count = 0
    print("started", flush=True)
    while True:
        wait = max(0, start + count / rate - time.monotonic())
        if select.select([sys.stdin], [], [], wait)[0]:
            break
        try:
            answers.add(one(port, request))
        except OSError as error:
            failures.append(f"{time.monotonic() - start:.3f} s: {error!r}")
        count += 1
    seconds = time.monotonic() - start
    with contextlib.suppress(BrokenPipeError):
        print(json.dumps({"count": count, "seconds": seconds, "answers": sorted(answers), "failures": failures}))


main()
