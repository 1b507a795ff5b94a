"""What the measured processes run, without the rest of this package: writes to standard output, for some seconds.

writer.py stamps SECONDS                        a line each 2 to 8 ms: when it was written, by the monotonic clock
writer.py flood SECONDS REPORT SIZE [MIB]       writes of SIZE bytes, each ended by a newline, at MIB a second or as
                                                fast as they go; REPORT gets the bytes and the seconds they took
"""

import os
import random
import sys
import time

MOST = 1 << 30  # bytes: a reader that keeps all of it must not fill up the machine
AT_ONCE = 64  # writes, between two looks at the clock


def stamps(seconds: str) -> None:
    until = time.monotonic() + float(seconds)
    while time.monotonic() < until:
        time.sleep(random.uniform(0.002, 0.008))
        os.write(1, b"%r\n" % time.monotonic())


def flood(seconds: str, report: str, size: str, rate: str = "") -> None:
    block = b"x" * (int(size) - 1) + b"\n"
    written, began = 0, time.monotonic()
    while (taken := time.monotonic() - began) < float(seconds) and written < MOST:
        for _ in range(1 if rate else AT_ONCE):
            left = memoryview(block)
            while left:
                left = left[os.write(1, left) :]
            written += len(block)
        if rate:
            time.sleep(max(0, began + written / (float(rate) * (1 << 20)) - time.monotonic()))
    with open(report + ".new", "w") as file:
        file.write(f"{written} {taken}")
    os.replace(report + ".new", report)


if __name__ == "__main__":
    what, *words = sys.argv[1:]
    stamps(*words) if what == "stamps" else flood(*words)
