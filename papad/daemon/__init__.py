"""The daemon: one thread, one event loop.

Its folders are its layers; each may import those before it: durable (what outlives a crash), output (capture and rings), nursery (the
parent of processes), tables (sockets, values, processes), delivery (who watches or reads), commands (what can be asked). On top:
peers (who is asking), connection, server, main.
"""
