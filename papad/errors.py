"""The exceptions of papad, used by both clients and the daemon.

Error                  every error a caller may act on; str() is a one-line message
├── ConnectionLost     the peer closed the connection before its answer was complete
│   └── TimedOut       the peer did not answer in time; also a TimeoutError
└── Unreachable        nothing answers at the address
    └── Refused        papad, or the system, rejects this user at the address

In the daemon, a command that raises Error is answered with `Error: MESSAGE`. Any other exception is
a bug in papad: it is logged with its traceback and answered with `Error: internal error`.
"""


class Error(RuntimeError):
    """What papad refused or failed to do, in one line that also says how to fix it."""


class ConnectionLost(Error):
    """The connection was closed before the answer was complete."""


class TimedOut(ConnectionLost, TimeoutError):
    """No answer arrived in time."""


class Unreachable(Error):
    """No papad answers at this address."""


class Refused(Unreachable):
    """Refused if papad, or the permissions of its socket, reject this user.

    `membership` tells whether members of the group papad would be let in.
    """

    def __init__(self, message: str, *, membership: bool = False) -> None:
        super().__init__(message)
        self.membership = membership
