"""The parent of all processes, a program of its own (main), and what the daemon knows of it (spawner, pidfd). May import durable.

The nursery imports this package, so it stays free of imports.
"""
