"""The exceptions of papad, used by both clients and the daemon.

Error                  every error a caller may act on; str() is a one-line message
├── AlreadyExists      the name is taken, by something that was made differently
├── NotFound           nothing has that name
├── BadRequest         the command, an option or a value is wrong; it will not help to try again
├── NotPermitted       this user may look, but not do that
├── NoRoom             a limit is reached, of papad or of the machine
├── BindFailed         the socket could not be made
├── StartFailed        the program could not be started
├── Unavailable        papad waits for something that does not answer; it may help to try again
├── ConnectionLost     the peer closed the connection before its answer was complete
│   └── TimedOut       the peer did not answer in time; also a TimeoutError
└── Unreachable        nothing answers at the address
    └── Refused        papad, or the system, rejects this user at the address

The daemon raises Error: its answers carry only the message, and protocol/failures.py tells clients
the kind of it. In the daemon, a command that raises Error is answered with `Error: MESSAGE`. Any
other exception is a bug in papad: it is logged with its traceback and answered with `Error:
internal error`.
"""


class Error(RuntimeError):
    """What papad refused or failed to do, in one line that also says how to fix it."""


class AlreadyExists(Error):
    """The name is taken by a socket or process that was made with other options."""


class NotFound(Error):
    """Nothing has that name, or nothing matches what is to be watched."""


class BadRequest(Error):
    """The command, an option or a value is wrong. The same again fails again."""


class NotPermitted(Error):
    """This user may look at what papad holds, but change nothing."""


class NoRoom(Error):
    """A limit is reached: of sockets, of what papad remembers, of a line, of memory or descriptors."""


class BindFailed(Error):
    """The socket could not be made: its address is in use, not there or not permitted."""


class StartFailed(Error):
    """The program could not be started: it is not there, may not be executed, or its user may not."""


class Unavailable(Error):
    """papad waits for something else, such as a directory of users, that does not answer."""


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
