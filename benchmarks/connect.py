"""How many connections a second are made, welcomed, and closed?"""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.figures import Sample, repeated, take_turns
from benchmarks.servers import Address, welcomed
from benchmarks.talkers import talkers


def turn(address: Address, family: str) -> Callable[[], Sample]:
    def taken() -> Sample:
        count, seconds = repeated(lambda: welcomed(address).close())
        return {(f"connections, {family}", "a second"): count / seconds}

    return taken


def main() -> None:
    for family in ("TCP", "Unix"):
        with talkers(family) as addresses:
            take_turns({name: turn(address, family) for name, address in addresses.items()}, warm=True)


if __name__ == "__main__":
    main()
