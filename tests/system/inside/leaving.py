"""One client tells papad to leave if it is idle; another comes at that moment, and is answered: leaving.py ROUNDS

Prints how often what was answered is not there afterwards.
"""

import random
import sys
import time

from talk import Talk

WHERE = "/run/papad/papad.sock"
lost = 0
for number in range(int(sys.argv[1])):
    first = Talk(WHERE)
    first.socket.sendall(b"exit-if-idle\n")
    time.sleep(random.uniform(0, 0.002))
    first.socket.close()
    time.sleep(random.uniform(0, 0.0003))
    with Talk(WHERE) as second:
        answered = second.greeting.startswith("Papa") and second.ask(f"set late {number}") == ""
    with Talk(WHERE) as third:
        lost += answered and third.ask("get late") != str(number)
        third.ask("set late")
print(lost)
