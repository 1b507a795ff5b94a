"""A worker as papad's users write them: serves the listening socket whose file number it is told.

    worker.py FILENO

Answers each connection with its own pid, after one line was read.
"""

import os
import socket
import sys

listener = socket.socket(fileno=int(sys.argv[1]))
while True:
    connection, _ = listener.accept()
    with connection:
        if connection.recv(64):
            connection.sendall(b"%d\n" % os.getpid())
