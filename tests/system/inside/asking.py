"""Ask papad without a pause until standard input ends, then report as JSON: asking.py WHERE [library]

WHERE is `tcp` or the path of a Unix socket. By hand, each question has a connection of its own and no second try; the library keeps
its connection, and finds papad again as it sees fit.
"""

import json
import select
import sys
import time

from talk import Talk


def by_hand(number: int) -> str:
    with Talk(sys.argv[1]) as talk:
        return talk.ask(f"set asked.{sys.argv[1]} {number}") + talk.ask(f"get asked.{sys.argv[1]}")


def library():  # type: ignore[no-untyped-def] # papad is not on every machine that looks at this file
    import papad

    # Long enough for a storm of kills to end.
    papa = papad.Papa(20202 if sys.argv[1] == "tcp" else sys.argv[1], 120, autostart=False)

    def ask(number: int) -> str:
        papa.set("asked.library", str(number))
        return papa.get("asked.library")

    return ask


def main() -> None:
    ask = library() if sys.argv[2:] else by_hand
    failures: list[str] = []
    count = 0
    slowest = 0.0
    print("started", flush=True)
    while not select.select([sys.stdin], [], [], 0)[0]:
        start = time.monotonic()
        try:
            answer = ask(count)
            if answer != str(count):
                failures.append(f"question {count}: {answer!r}")
        except Exception as error:
            failures.append(f"question {count}: {error!r}")
        count += 1
        slowest = max(slowest, time.monotonic() - start)
    print(json.dumps({"count": count, "failures": failures, "slowest": slowest}))


main()
