"""The protocol, without I/O: encoding and parsing for the daemon and both clients.

wire: lines, words, replies and records. options: those of a socket, declared. requests: the line of
each command and the parser of its answer. responses: extracts answers, batches and frames from
received bytes. reading, watching: how reading and watching continue after a restart of papad. May
import only papad.errors.
"""
