"""Line plots as SVG and PNG: figures of networks over what was done to them.

    accuracy = Line("ChannelNorm", x=(10, 30, 50), y=(99.0, 98.1, 91.7))
    pictures = line_plot([Panel("ResNet20", [accuracy], level=99.7)], x_label=..., y_label=...)

The same lines give the same bytes, with one version of matplotlib. Nothing is read of the user's
own settings of matplotlib, and no window is opened.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Wong, "Points of view: Color blindness", Nature Methods 8 (2011), without its yellow, which is
# hard to see on white; the grey is for more lines.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#6E6E6E")
_MARKERS = ("o", "s", "^", "D", "v", "p", "<", ">")
"""No common divisor with the colours: fifty-six lines that differ."""
_INK, _PALE = "#333333", "#DDDDDD"


class Pictures(NamedTuple):
    """One picture in two formats."""

    svg: bytes
    png: bytes


@dataclass(frozen=True, slots=True)
class Line:
    """A line with its points, left to right."""

    label: str
    """Equal labels look alike in all panels."""
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] = ()
    high: Sequence[float] = ()
    """Where given, the band around the line, of the length of `y`."""


@dataclass(frozen=True, slots=True)
class Panel:
    """One pair of axes."""

    title: str
    lines: Sequence[Line]
    level: float | None = None
    """A dashed horizontal line, where everything began."""


def line_plot(
    panels: Sequence[Panel],
    *,
    x_label: str,
    y_label: str,
    level_label: str = "unpruned",
    about: str = "",
    columns: int = 0,
) -> Pictures:
    """Panels beside and below each other, on the same scales, with one legend below all.

    Args:
        panels: at least one, row by row.
        x_label, y_label: what is shown, with its unit.
        level_label: what `Panel.level` stands for.
        about: what lines and bands are, a line above the legend.
        columns: panels in a row; by default up to three.
    """
    # Imported here: matplotlib takes half a second, and most commands draw nothing.
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = columns or min(3, len(panels))
    rows = math.ceil(len(panels) / columns)
    labels = list(dict.fromkeys(line.label for panel in panels for line in panel.lines))
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        settings: Any = matplotlib.rcParams  # its type names every key of one version
        settings.update(_SETTINGS)
        figure = Figure(figsize=(1.2 + 4.2 * columns, 1.3 + 2.9 * rows), layout="constrained")
        FigureCanvasAgg(figure)
        grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
        for axes, panel in zip(grid.flat, panels, strict=False):
            _draw(axes, panel, labels, level_label)
        for axes in list(grid.flat)[len(panels) :]:
            axes.set_axis_off()
        # What has nothing below it shows the numbers of its axis.
        for axes in list(grid.flat)[max(0, len(panels) - columns) : len(panels)]:
            axes.xaxis.set_tick_params(labelbottom=True)
            axes.set_xlabel(x_label)
        for axes in grid[:, 0]:
            axes.set_ylabel(y_label)
        _legend(figure, grid.flat, about)
        return Pictures(
            _saved(figure, "svg", {"Date": None, "Creator": None}),
            _saved(figure, "png", {"Software": None}),
        )


_SETTINGS: dict[str, Any] = {
    "svg.hashsalt": "pruners",
    "figure.dpi": 100,
    "savefig.dpi": 150,
    "font.size": 10,
    "axes.titlesize": 10.5,
    "axes.edgecolor": _INK,
    "axes.labelcolor": _INK,
    "text.color": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": _PALE,
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.6,
    "lines.markersize": 5,
    "figure.constrained_layout.h_pad": 0.08,
    "figure.constrained_layout.w_pad": 0.08,
    "legend.fontsize": 10,
    "legend.title_fontsize": 9,
}


def _draw(axes: Axes, panel: Panel, labels: Sequence[str], level_label: str) -> None:
    axes.set_title(panel.title, loc="left")
    if panel.level is not None:
        axes.axhline(panel.level, color=_INK, linestyle=(0, (5, 3)), linewidth=1, label=level_label)
    for line in panel.lines:
        number = labels.index(line.label)
        colour = _COLOURS[number % len(_COLOURS)]
        marker = _MARKERS[number % len(_MARKERS)]
        if line.low and line.high:
            axes.fill_between(line.x, line.low, line.high, color=colour, alpha=0.18, linewidth=0)
        axes.plot(
            line.x,
            line.y,
            color=colour,
            marker=marker,
            markeredgecolor="white",
            markeredgewidth=0.7,
            label=line.label,
        )


def _legend(figure: Figure, grid: Iterable[Axes], about: str) -> None:
    """Below all panels; every label once."""
    entries: dict[str, Any] = {}
    for axes in grid:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            entries.setdefault(label, handle)
    if not entries:
        return
    # Letters of ten points are about six and a half wide, a line and its gaps fifty.
    widest = max(map(len, entries)) * 6.5 + 50
    columns = max(1, min(len(entries), int(figure.get_figwidth() * 72 / widest)))
    figure.legend(
        list(entries.values()),
        list(entries),
        loc="outside lower center",
        ncols=columns,
        frameon=False,
        title=about or None,
    )


def _saved(figure: Figure, kind: str, metadata: dict[str, None]) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format=kind, metadata=metadata)
    return buffer.getvalue()
