"""The blocking client. papad.aio has the same files and classes for asyncio.

address: finds papad. connection: one connection. papa: the drop-in replacement for the original's
class. watcher: reads the batches of a watch. later: a watcher that goes on with later processes.
autostart: starts papad if none answers. May import papad.protocol, but nothing from the daemon.
"""
