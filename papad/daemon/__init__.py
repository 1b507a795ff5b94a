"""The daemon: one thread, one event loop.

Its folders are layers; each may import those before it: durable (what outlives a crash), output
(capture and rings), nursery (the parent of processes), tables (sockets, values, processes),
delivery (watches and readers), commands (the table of commands). On top: peers (authentication),
connection, server, main.
"""
