"""What somebody does who is not let in, and tries all the same.

    stranger.py WHERE TIMES LINE…

Sends a line and closes without waiting for an answer, TIMES times: at once in every way a connection can end, and as
soon as the other side has spoken.
"""

import socket
import struct
import sys

from talk import CONTROL

ABORT = struct.pack("ii", 1, 0)  # SO_LINGER of 0 s: close() resets the connection


def main() -> None:
    where, times, lines = sys.argv[1], int(sys.argv[2]), sys.argv[3:]
    family, address = (socket.AF_INET, CONTROL) if where == "tcp" else (socket.AF_UNIX, where)
    for number in range(times):
        with socket.socket(family) as connection:
            connection.settimeout(30)
            connection.connect(address)
            try:
                connection.sendall((lines[number % len(lines)] + "\n").encode())
                match number // len(lines) % 4:
                    case 1:
                        connection.shutdown(socket.SHUT_WR)
                    case 2:
                        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, ABORT)
                    case 3:
                        connection.recv(1)
            except (BrokenPipeError, ConnectionResetError):
                pass  # refused before the line was out
            except OSError as error:
                if error.errno != 107:  # ENOTCONN: likewise
                    raise


main()
