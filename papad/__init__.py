"""papad: a process kernel for Linux that survives.

`papad.client` talks to it; `papad.kernel` is the daemon.
"""

__version__ = "0.1.0"
