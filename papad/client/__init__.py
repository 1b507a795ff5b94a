"""The blocking client. papad.aio has the same files and classes for asyncio.

connection: one connection. papa: the drop-in for the original's class. watcher: what a watch delivers. autostart: starts a papad where
none answers. May import the protocol, nothing of the daemon.
"""
