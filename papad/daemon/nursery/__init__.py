"""The parent of all processes, a separate program (main), and the daemon's side (spawner, pidfd).

May import durable. The nursery itself imports this package, so it must not import anything here.
"""
