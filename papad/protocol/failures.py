"""What kind of error papad's answer tells of.

The wire carries text only, as the original's does: `Error: TEXT`. So the kind follows from the text,
by this table and nowhere else. tests/unit/protocol/test_failures.py holds every message of the daemon
against it.
"""

from __future__ import annotations

import re

from papad.errors import (
    AlreadyExists,
    BadRequest,
    BindFailed,
    Error,
    NoRoom,
    NotFound,
    NotPermitted,
    StartFailed,
    Unavailable,
)

# The first that matches from its beginning decides. Names, which may be any text, stand for `.*`; so
# a pattern that begins with one comes after those that begin with words of papad's own.
_KINDS: tuple[tuple[type[Error], str], ...] = (
    (AlreadyExists, r"(Socket|Process) for .* has already been created( - |$)"),
    (BadRequest, r"Unknown (command|option|rlimit) "),
    (BadRequest, r"Unexpected \".*\"; options are name=value"),
    (BadRequest, r"You cannot (abbreviate|remove all variables)"),
    (BadRequest, r"Bad \".*\" command\. "),
    (BadRequest, r"(Socket|Process|Value) requires a name$"),
    (BadRequest, r"A name must (be|not) "),
    (BadRequest, r"(Arguments|.*) cannot hold the character NUL"),
    (BadRequest, r"No command$"),
    (BadRequest, r"In a line that begins with %"),
    (BadRequest, r"(Absolute path required|path is|\w+ is) for Unix sockets"),
    (BadRequest, r"A Unix socket has no "),
    (BadRequest, r"env_file .*, line \d+: "),
    (BadRequest, r"login_env needs the entry of a user, "),
    (BadRequest, r"journal=1 forwards what is captured"),
    (BadRequest, r"The rlimit value for "),
    (BadRequest, r"Process for .* argument starts with "),
    (BadRequest, r"You forgot to specify either "),
    (BadRequest, r"Socket .* has no port; it is a Unix socket$"),
    (BadRequest, r"No such group: "),
    (BadRequest, r"\w+\.ID=POSITION wants two numbers"),
    (BadRequest, r"mode= and umask= both say who may connect"),
    (BadRequest, r"User .* has no group of its own; "),
    (NotPermitted, r"You may only look; "),
    (NoRoom, r"The limit of \d+ sockets is reached"),
    (NoRoom, r"The line is too long; "),
    (NoRoom, r"papad (remembers \d+ MiB already|lacks a resource: )"),
    (BindFailed, r"Bind failed(:| on )"),
    (BindFailed, r"Cannot (listen: |reserve |set |bind to interface |resolve host |make a \w+ socket of type )"),
    (BindFailed, r"Cannot (make .* the owner of|give .* the mode) "),
    (BindFailed, r"There is no interface "),
    (StartFailed, r"Cannot start a process[:,]"),
    (StartFailed, r"Bad (command|nice|rlimit|stdin|uid or gid|working_dir) - "),
    (StartFailed, r"Cannot read env_file "),
    (StartFailed, r"It was killed before it could start$"),
    (Unavailable, r"(cannot start )?the nursery, the parent of processes"),
    (Unavailable, r"systemd cannot be asked to keep this: "),
    (NotFound, r"Nothing to watch$"),
    (Unavailable, r".* (does not answer; try again later|has not answered within \d+ s; )"),
    (NotFound, r".* not found$"),
    (AlreadyExists, r".* is kept for a papad that can use it; "),
    (AlreadyExists, r".* is the name of a process that is kept, "),
    (BadRequest, r"\".*\" must be followed by one of: "),
    (BadRequest, r".* is not a valid user (id|name)$"),
    (BadRequest, r".* must be .*, not \""),
)


def failure(text: str) -> Error:
    """Return the error that papad tells of with `text`: of the kind of its own, or else an `Error`."""
    # Patterns are compiled as far as they are tried: most clients never see an error.
    return next((kind for kind, pattern in _KINDS if re.match(pattern, text, re.DOTALL)), Error)(text)
