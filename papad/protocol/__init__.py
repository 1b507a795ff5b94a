"""The protocol, without I/O: how lines are made and read, for the daemon and for both clients.

wire: lines, words, frames of the server's side. requests: what each command looks like, and how its answer is read.
responses: answers, batches and frames taken out of what arrives. May import only papad.errors.
"""
