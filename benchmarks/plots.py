"""Draw docs/benchmarks/*.svg from growth.jsonl, which is there too and is what growth.py has printed: `make plots`.

`python -m benchmarks.plots FOLDER` does it in another folder.

The same figures give the same bytes. Colours and greys can be read on white and on black.
"""

from __future__ import annotations

import json
import math
import statistics
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure

from benchmarks.figures import ORIGINAL, PAPAD
from tests.original.servers import REPOSITORY

GREY = "#808080"
COLOURS = {PAPAD: "#2f81f7", ORIGINAL: "#e0702a"}
STYLES = ("-", "--", ":")
SETTINGS = {
    "svg.hashsalt": "papad",
    "svg.fonttype": "none",
    "font.size": 9,
    "text.color": GREY,
    "axes.edgecolor": GREY,
    "axes.labelcolor": GREY,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": GREY,
    "grid.alpha": 0.25,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "lines.markersize": 3,
}
ALONG = {"processes": "processes, half of them ended", "connections": "idle connections", "bytes": "bytes a line"}


@dataclass(frozen=True)
class Panel:
    """One of the small plots of a figure."""

    title: str
    along: str
    measures: tuple[str, ...]
    """Drawn in lines of different styles; more than one have names before a comma."""


PROCESSES = "processes"
FIGURES = {
    "processes": (
        Panel("Start a process", PROCESSES, ("start a process",)),
        Panel("From exit to watcher", PROCESSES, ("exit of a process",)),
        Panel("From write to watcher, median", PROCESSES, ("from write to watcher, median",)),
        Panel("List one process by name", PROCESSES, ("list one by name",)),
        Panel("List all processes", PROCESSES, ("list all",)),
        Panel("From SIGKILL to the first answer", PROCESSES, ("from SIGKILL to the first answer",)),
    ),
    "memory": (
        Panel("Memory (Rss; files in memory)", PROCESSES, ("daemon, Rss", "nursery, Rss", "files in memory, used")),
        Panel("Memory of the daemon (Rss)", "connections", ("daemon, Rss",)),
    ),
    "connections-and-lines": (
        Panel("Round trip", "connections", ("round trip, Unix",)),
        Panel("Captured", "bytes", ("captured",)),
    ),
}


def main() -> None:
    folder = Path(sys.argv[1]) if sys.argv[1:] else REPOSITORY / "docs/benchmarks"
    lines = [json.loads(line) for line in (folder / "growth.jsonl").read_text().splitlines()]
    figures = [line for line in lines if "measure" in line]
    with rc_context(SETTINGS):
        for name, panels in FIGURES.items():
            draw(folder / f"{name}.svg", panels, figures)


def draw(path: Path, panels: tuple[Panel, ...], lines: list[dict[str, Any]]) -> None:
    """The panels two in a row, each with its contenders."""
    rows = (len(panels) + 1) // 2
    figure = Figure(figsize=(7.5, 2.5 * rows), layout="constrained")
    for panel, plot in zip(panels, figure.subplots(rows, 2, squeeze=False).flat, strict=True):
        for measure, style in zip(panel.measures, STYLES, strict=False):
            found = [
                line
                for line in lines
                if (line["along"], line["measure"]) == (panel.along, measure) and min(line["values"]) > 0
            ]
            for who in dict.fromkeys(line["who"] for line in found):
                label = f"{who}, {measure.split(',')[0]}" if len(panel.measures) > 1 else who
                curve(plot, [line for line in found if line["who"] == who], COLOURS.get(who, GREY), style, label)
        unit = next(line["unit"] for line in lines if line["measure"] == panel.measures[0])
        plot.set(title=panel.title, xlabel=ALONG[panel.along], ylabel=unit, xscale="log", yscale="log")
        plot.title.set_fontsize(9)
        plot.set_ylim(decades(value for line in plot.lines for value in line.get_ydata()))
        for axis in (plot.xaxis, plot.yaxis):
            axis.set_major_formatter(lambda value, _: f"{value:,.0f}" if value >= 1 else f"{value:g}")
        plot.minorticks_off()
        plot.legend()
    figure.savefig(path, transparent=True, metadata={"Date": None, "Creator": None})


def curve(plot: Any, lines: list[dict[str, Any]], colour: str, style: str, label: str) -> None:
    """The medians, and behind them from the least to the most."""
    along = [line["at"] for line in lines]
    middle, least, most = ([pick(line["values"]) for line in lines] for pick in (statistics.median, min, max))
    plot.plot(along, middle, "o", ls=style, color=colour, label=label)
    plot.fill_between(along, least, most, color=colour, alpha=0.2, linewidth=0)


def decades(values: Iterable[float]) -> tuple[float, float]:
    """The powers of ten around them: what hardly grows is to look like that."""
    found = [math.log10(value) for value in values]
    least = math.floor(min(found))
    return 10.0**least, 10.0 ** max(least + 1, math.ceil(max(found)))


if __name__ == "__main__":
    main()
