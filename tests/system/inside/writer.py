"""Writes numbered lines to both streams, in chunks of all sizes, and ends as it is told: NAME LINES ENDING SEED.

Leaves a file of its name, which tells when it ended.
"""

import os
import random
import sys
import time

name, lines, ending, seed = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
chance = random.Random(seed)


def write(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]


done = {1: 0, 2: 0}
while min(done.values()) < lines:
    fd = chance.choice([fd for fd in done if done[fd] < lines])
    many = min(chance.choice((1, 1, 1, 5, 200)), lines - done[fd])
    stream = "out" if fd == 1 else "err"
    write(fd, b"".join(b"%s:%s:%08d\n" % (name.encode(), stream.encode(), done[fd] + i) for i in range(many)))
    done[fd] += many
    time.sleep(chance.choice((0, 0.001, 0.02)))
os.makedirs("/run/writer-ended", exist_ok=True)
with open(f"/run/writer-ended/{name}", "w"):
    pass
if ending < 0:
    os.kill(os.getpid(), -ending)
os._exit(ending)
