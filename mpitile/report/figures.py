"""Pictures: what they are made of, and how they become files. The only door to matplotlib.

matplotlib is an extra (`plot`), so that it is imported where something is drawn and not before.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mpitile.errors import InputError

# Colours that colour-blind readers tell apart: Okabe and Ito, "Color Universal Design", 2008.
BLUE, ORANGE, GREEN, PINK = "#0072B2", "#E69F00", "#009E73", "#CC79A7"
SKY, VERMILION, YELLOW, GREY = "#56B4E9", "#D55E00", "#F0E442", "#8C8C8C"
HUES = (BLUE, ORANGE, GREEN, PINK, SKY, VERMILION, YELLOW)

FORMS = ("svg", "png", "pdf")

_STYLE = {
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": "#DDDDDD",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "hatch.linewidth": 0.7,
    # Text stays text, and the same data give the same file.
    "svg.fonttype": "none",
    "svg.hashsalt": "mpitile",
}

# A figure or a part of one, which matplotlib's types would name.
Canvas = Any


@dataclass(frozen=True)
class Picture:
    """Something to be drawn.

    Attributes
    ----------
    name : of its file, without ending.
    title : a line above it.
    caption : how to read it, for a page.
    size : width and height in inches.
    draw : given a figure, or a part of one.
    """

    name: str
    title: str
    caption: str
    size: tuple[float, float]
    draw: Callable[[Canvas], None]


def require_matplotlib() -> None:
    """Raise `InputError` where it is not installed."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise InputError(
            f"pictures need matplotlib: pip install 'mpitile[plot]' ({error})"
        ) from error


def render(pictures: Sequence[Picture], form: str) -> bytes:
    """The pictures below one another, as a file of a form out of `FORMS`."""
    require_matplotlib()
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    heights = [picture.size[1] for picture in pictures]
    with rc_context(_STYLE):
        size = (max(picture.size[0] for picture in pictures), sum(heights))
        figure = Figure(figsize=size, layout="constrained", facecolor="white")
        parts = figure.subfigures(len(pictures), 1, height_ratios=heights, squeeze=False)
        for picture, part in zip(pictures, parts[:, 0], strict=True):
            part.set_gid(picture.name)
            part.suptitle(picture.title, fontsize=10.5, fontweight="bold", x=0.01, ha="left")
            picture.draw(part)
        file = io.BytesIO()
        # The hour of drawing would make two equal pictures different files.
        dated = {"png": {}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}[form]
        figure.savefig(file, format=form, dpi=130, metadata=dated)
    return file.getvalue()


def write_pictures(pictures: Sequence[Picture], folder: Path) -> list[Path]:
    """Each picture as an SVG and a PNG file in a folder, which is made where it is missing.

    Raises
    ------
    InputError : it cannot be written to.
    """
    written = []
    for picture in pictures:
        for form in ("svg", "png"):
            path = folder / f"{picture.name}.{form}"
            write_bytes(path, render([picture], form))
            written.append(path)
    return written


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file, and its folder where that is missing.

    Raises
    ------
    InputError : it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror}") from error


def lighter(colour: str, share: float) -> str:
    """A colour mixed with so much white."""
    parts = (int(colour[at : at + 2], 16) for at in (1, 3, 5))
    return "#" + "".join(f"{round(part + (255 - part) * share):02X}" for part in parts)
