"""papad: a process kernel for Linux that survives.

`Papa` talks to it, as does `papad.aio.Papa` for asyncio; see docs/client.md. `papad.daemon` is the daemon.

What is exported here is imported when it is first used: the daemon and its nursery import this package, too.
"""

from __future__ import annotations

from importlib import import_module

from papad.version import __version__ as __version__

TYPE_CHECKING = False

if TYPE_CHECKING:
    from papad import aio as aio
    from papad.client.connection import Client as Client
    from papad.client.papa import DEBUG_MODE_NONE as DEBUG_MODE_NONE
    from papad.client.papa import DEBUG_MODE_PROCESS as DEBUG_MODE_PROCESS
    from papad.client.papa import DEBUG_MODE_THREAD as DEBUG_MODE_THREAD
    from papad.client.papa import Papa as Papa
    from papad.client.papa import set_debug_mode as set_debug_mode
    from papad.client.papa import set_default_connection_timeout as set_default_connection_timeout
    from papad.client.papa import set_default_path as set_default_path
    from papad.client.papa import set_default_port as set_default_port
    from papad.client.watcher import Watcher as Watcher
    from papad.errors import AlreadyExists as AlreadyExists
    from papad.errors import BadRequest as BadRequest
    from papad.errors import BindFailed as BindFailed
    from papad.errors import ConnectionLost as ConnectionLost
    from papad.errors import Error as Error
    from papad.errors import NoRoom as NoRoom
    from papad.errors import NotFound as NotFound
    from papad.errors import NotPermitted as NotPermitted
    from papad.errors import Refused as Refused
    from papad.errors import StartFailed as StartFailed
    from papad.errors import TimedOut as TimedOut
    from papad.errors import Unavailable as Unavailable
    from papad.errors import Unreachable as Unreachable
    from papad.protocol.requests import DEVNULL as DEVNULL
    from papad.protocol.requests import PIPE as PIPE
    from papad.protocol.requests import STDOUT as STDOUT
    from papad.protocol.responses import Frame as Frame
    from papad.protocol.responses import ProcessOutput as ProcessOutput
    from papad.protocol.responses import Record as Record

_FROM = {
    "client.connection": "Client",
    "errors": "AlreadyExists BadRequest BindFailed ConnectionLost Error NoRoom NotFound NotPermitted Refused StartFailed"
    " TimedOut Unavailable Unreachable",
    "protocol.responses": "Frame ProcessOutput Record",
    "client.papa": "DEBUG_MODE_NONE DEBUG_MODE_PROCESS DEBUG_MODE_THREAD Papa"
    " set_debug_mode set_default_connection_timeout set_default_path set_default_port",
    "protocol.requests": "DEVNULL PIPE STDOUT",
    "client.watcher": "Watcher",
}
_MODULES = {name: f"papad.{module}" for module, names in _FROM.items() for name in names.split()}


if not TYPE_CHECKING:  # to a type checker every name would be there

    def __getattr__(name: str) -> object:
        if name == "aio":
            return import_module("papad.aio")
        if name not in _MODULES:
            raise AttributeError(f"module 'papad' has no attribute {name!r}")
        value = getattr(import_module(_MODULES[name]), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES})
