"""The exceptions of papad, for client and kernel alike.

Error                  every error a caller may act on; str() is one clear line
├── ConnectionLost     the other end went away in the middle of a conversation
│   └── TimedOut       it did not answer in time; also a TimeoutError
└── Unreachable        nobody answers at the address
    └── Refused        the address is there, but not for us

Inside the kernel, a command that raises Error is answered `Error: MESSAGE`. Any other exception is a bug of ours: it is
logged with its traceback and answered `Error: internal error`.
"""


class Error(RuntimeError):
    """What papad refused or could not do, in one line that says what to do about it."""


class ConnectionLost(Error):
    """The connection ended before the answer was complete."""


class TimedOut(ConnectionLost, TimeoutError):
    """No answer came in time."""


class Unreachable(Error):
    """No papad answers at this address."""


class Refused(Unreachable):
    """The system does not let this user connect to the address."""
