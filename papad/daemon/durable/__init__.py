"""What outlives a crash: the store, the homes of descriptors, what systemd keeps.

Imports nothing else of the daemon.
"""
