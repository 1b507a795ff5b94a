"""Watch processes to their end: watch.py PATTERNS [WHERE]. Prints the records as a JSON list of [kind, name, data]."""

import json
import sys

from talk import Talk

with Talk(*(sys.argv[2:] or ["/run/papad/papad.sock"])) as talk:
    print(json.dumps([[kind, name, data.decode()] for kind, name, data in talk.watch(sys.argv[1])]))
