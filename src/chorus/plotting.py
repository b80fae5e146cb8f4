"""Figures in one style: drawn without a display, and without dates, so that the same numbers make the same files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from chorus.errors import MissingExtraError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, GRID = "#222222", "#e5e5e5"
GREY, RED, TEAL, AMBER, PURPLE = "#555555", "#d1495b", "#00798c", "#edae49", "#7a5195"
HASH_SALT = "chorus"  # of the names inside SVG files, which are otherwise drawn anew each time
UNDATED = {".png": {"Software": None}, ".svg": {"Date": None}, ".pdf": {"CreationDate": None}}
DPI = 150


def figure(width: float, height: float, *, panels: int = 1, title: str = "") -> tuple[Figure, list[Axes]]:
    """A figure of so many inches with panels side by side. `MissingExtraError` without matplotlib."""
    try:
        from matplotlib import rcParams
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingExtraError("audio", "drawing plots") from None
    rcParams["svg.hashsalt"] = HASH_SALT
    rcParams["svg.fonttype"] = "path"  # letters as outlines: the same on machines without the font
    # not pyplot's: that looks for a window system, and keeps every figure until it is closed
    drawn = Figure(figsize=(width, height), layout="constrained")
    axes = list(drawn.subplots(1, panels, squeeze=False)[0])
    for one in axes:
        one.spines[["top", "right"]].set_visible(False)
        one.grid(axis="both", color=GRID, linewidth=0.8)
        one.set_axisbelow(True)
    if title:
        drawn.suptitle(title, color=INK)
    return drawn, axes


def save(drawn: Figure, target: Path) -> Path:
    """The figure as its suffix says (PNG, SVG, PDF)."""
    target.parent.mkdir(parents=True, exist_ok=True)
    drawn.savefig(target, dpi=DPI, metadata=UNDATED.get(target.suffix.lower()))
    return target
