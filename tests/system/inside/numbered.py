"""Writes numbered lines, a few hundred a second, until /run/numbered.stop is there; then ends with 7."""

import os
import sys
import time

number = 0
while not os.path.exists("/run/numbered.stop"):
    for _ in range(20):
        sys.stdout.write(f"{number:08d}\n")
        number += 1
    sys.stdout.flush()
    time.sleep(0.02)
sys.exit(7)
