"""Work is counted, not timed: a commit that makes papad do more for the same is seen on any machine.

System calls by strace and instructions by callgrind, for each of the operations, are compared with those in
recorded.json. `make recount` writes that file anew.
"""
