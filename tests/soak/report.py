"""What a soak has found: a table, and a picture of all series in SVG. `python -m tests.soak.report LINES PICTURE`."""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from pathlib import Path

from tests.soak.trend import TOLERANCES, is_time, quarters

Series = dict[str, dict[str, list[float]]]
"""By papad and measure."""

COLOURS = ("#0072b2", "#d55e00", "#009e73")
WIDTH, HEIGHT, COLUMNS = 270, 120, 3  # of one chart with its title, in px; charts beside each other
PLOT_WIDTH, PLOT_HEIGHT = 230, 80


def collected(samples: Iterable[Mapping[str, object]]) -> Series:
    """The series of the samples, which are as they are written: with `papad` and `seconds`."""
    found: Series = {}
    for sample in samples:
        series = found.setdefault(str(sample["papad"]), {})
        for name, value in sample.items():
            if isinstance(value, int | float):
                series.setdefault(name, []).append(value)
    return found


def table(series: Series) -> Iterator[str]:
    """The levels of the second and of the last quarter, in Markdown."""
    yield f"| {' | '.join(['second → last quarter', *series])} |"
    yield "|---" * (1 + len(series)) + "|"
    for name in TOLERANCES:
        cells = (" → ".join(f"{value:,.0f}" for value in quarters(name, each[name])) for each in series.values())
        yield f"| {' | '.join([name, *cells])} |"


def picture(series: Series) -> str:
    """All series over the time: a chart for each measure, a line for each papad."""
    rows = -(-len(TOLERANCES) // COLUMNS)
    width, height = COLUMNS * WIDTH, rows * HEIGHT + 24
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="10">',
        '<rect width="100%" height="100%" fill="white"/>',
    ]
    for number, name in enumerate(series):
        parts.append(
            f'<text x="{20 + number * 110}" y="15" font-size="12" fill="{COLOURS[number]}">{escape(name)}</text>'
        )
    for number, name in enumerate(TOLERANCES):
        x, y = number % COLUMNS * WIDTH + 20, number // COLUMNS * HEIGHT + 40
        parts.append(f'<g transform="translate({x} {y})">{chart(name, series)}</g>')
    return "\n".join([*parts, "</svg>\n"])


def chart(name: str, series: Series) -> str:
    """One measure from zero to the highest of its values; of times, to four times their median."""
    every = [value for each in series.values() for value in each[name]]
    top = max(4 * statistics.median(every) if is_time(name) else max(every), 1)
    last = max(each["seconds"][-1] for each in series.values())
    parts = [
        f'<text y="-4">{escape(name)}</text><text x="{PLOT_WIDTH}" y="-4" text-anchor="end">{top:,.0f}</text>',
        f'<path d="M0 0V{PLOT_HEIGHT}H{PLOT_WIDTH}" fill="none" stroke="#999"/>',
        f'<text x="{PLOT_WIDTH}" y="{PLOT_HEIGHT + 11}" text-anchor="end">{last / 60:.3g} min</text>',
    ]
    for colour, each in zip(COLOURS, series.values(), strict=False):
        points = " ".join(
            f"{PLOT_WIDTH * seconds / last:.1f},{PLOT_HEIGHT * (1 - min(value, top) / top):.1f}"
            for seconds, value in thinned(list(zip(each["seconds"], each[name], strict=True)))
        )
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}"/>')
    return "".join(parts)


def thinned(points: Sequence[tuple[float, float]]) -> Sequence[tuple[float, float]]:
    """At most two points for each px."""
    return points[:: -(-len(points) // (2 * PLOT_WIDTH))]


def main() -> None:
    lines, target = map(Path, sys.argv[1:])
    series = collected(map(json.loads, lines.read_text().splitlines()))
    target.write_text(picture(series))
    print(*table(series), sep="\n")


if __name__ == "__main__":
    main()
