"""Watch processes to their end: watch.py PATTERNS. Prints the records as a JSON list of [kind, name, data]."""

import json
import sys

from talk import Talk

with Talk("/run/papad/papad.sock") as talk:
    print(json.dumps([[kind, name, data.decode()] for kind, name, data in talk.watch(sys.argv[1])]))
