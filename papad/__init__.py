"""papad: a process kernel for Linux that survives.

`Papa` talks to it, as does `papad.aio.Papa` for asyncio; see docs/client.md. `papad.kernel` is the daemon.

What is exported here is imported when it is first used: the daemon and its nursery import this package, too.
"""

from __future__ import annotations

from importlib import import_module

TYPE_CHECKING = False

if TYPE_CHECKING:
    from papad import aio as aio
    from papad.client import Client as Client
    from papad.errors import ConnectionLost as ConnectionLost
    from papad.errors import Error as Error
    from papad.errors import Refused as Refused
    from papad.errors import TimedOut as TimedOut
    from papad.errors import Unreachable as Unreachable
    from papad.incoming import Frame as Frame
    from papad.incoming import ProcessOutput as ProcessOutput
    from papad.papa import DEBUG_MODE_NONE as DEBUG_MODE_NONE
    from papad.papa import DEBUG_MODE_PROCESS as DEBUG_MODE_PROCESS
    from papad.papa import DEBUG_MODE_THREAD as DEBUG_MODE_THREAD
    from papad.papa import Papa as Papa
    from papad.papa import set_debug_mode as set_debug_mode
    from papad.papa import set_default_connection_timeout as set_default_connection_timeout
    from papad.papa import set_default_path as set_default_path
    from papad.papa import set_default_port as set_default_port
    from papad.requests import DEVNULL as DEVNULL
    from papad.requests import PIPE as PIPE
    from papad.requests import STDOUT as STDOUT
    from papad.watcher import Watcher as Watcher

__version__ = "0.2.0"

_FROM = {
    "client": "Client",
    "errors": "ConnectionLost Error Refused TimedOut Unreachable",
    "incoming": "Frame ProcessOutput",
    "papa": "DEBUG_MODE_NONE DEBUG_MODE_PROCESS DEBUG_MODE_THREAD Papa"
    " set_debug_mode set_default_connection_timeout set_default_path set_default_port",
    "requests": "DEVNULL PIPE STDOUT",
    "watcher": "Watcher",
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
