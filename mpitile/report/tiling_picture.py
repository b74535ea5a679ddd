"""The tiling of layers, drawn: ranks' cells, halos, and what several ranks compute."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from mpitile.geometry.box import Box, whole
from mpitile.geometry.tiling import Grid
from mpitile.report.figures import HUES, Canvas, Picture, lighter
from mpitile.report.tile_maps import LayerTiling, TileMap

# More labels would cover each other.
_LABELLED = 128
_COLUMN, _ROW = 4.4, 4.3


def tiling_picture(
    tilings: Sequence[LayerTiling], grid: Grid, devices: Sequence[int], replicas: int = 1
) -> Picture:
    """A row for each layer: its group's inputs with halos, and its output with the overlap.

    Parameters
    ----------
    devices : by rank of the first replica, the number of its device.
    """
    columns = max(len(tiling.maps) for tiling in tilings)
    alike = f", the first of {replicas} replicas" if replicas > 1 else ""

    def draw(figure: Canvas) -> None:
        rows = figure.subfigures(len(tilings), 1, squeeze=False)[:, 0]
        for row, tiling in zip(rows, tilings, strict=True):
            row.set_gid(f"layer-{tiling.layer}")
            row.suptitle(tiling.title, fontsize=9.5, x=0.01, ha="left")
            axes = row.subplots(1, columns, squeeze=False)[0]
            for axis in axes[len(tiling.maps) :]:
                axis.set_axis_off()
            for axis, one in zip(axes, tiling.maps, strict=False):
                _draw_map(axis, one, tiling.focus, grid, devices)
        _legend(figure, tilings, devices)

    return Picture(
        "tiling",
        f"Tiling: {len(devices)} rank(s) as {grid}{alike}",
        "Each colour is a rank, each family of colours a device, and black lines run between "
        "devices. One rank is picked out: black hatching is what it takes from other ranks before "
        "its group starts (left), or computes again though others own it (right). Darker cells "
        "are computed by several ranks: the price of fusing layers into a group. A layer "
        "divided by filters has channels across and all rows of the map in every slice.",
        (max(6.4, _COLUMN * columns), _ROW * len(tilings) + 0.9),
        draw,
    )


def rank_colours(devices: Sequence[int]) -> list[str]:
    """A hue for each device, a lightness for each of its ranks; hues alone on one device."""
    if len(set(devices)) == 1:
        return [lighter(HUES[rank % len(HUES)], 0.45) for rank in range(len(devices))]
    order = {device: number for number, device in enumerate(dict.fromkeys(devices))}
    colours, places = [], dict.fromkeys(order, 0)
    ranks = Counter(devices)
    for device in devices:
        share = 0.25 + 0.45 * places[device] / max(1, ranks[device] - 1)
        places[device] += 1
        colours.append(lighter(HUES[order[device] % len(HUES)], share))
    return colours


def shared_cells(boxes: Sequence[Box]) -> list[tuple[Box, int]]:
    """Boxes that cover the cells of two or more of these, and how many have them."""
    ys = sorted({y for box in boxes if not box.empty for y in (box.y0, box.y1)})
    xs = sorted({x for box in boxes if not box.empty for x in (box.x0, box.x1)})
    counts = np.zeros((max(0, len(ys) - 1), max(0, len(xs) - 1)), int)
    for box in boxes:
        if not box.empty:
            rows = slice(ys.index(box.y0), ys.index(box.y1))
            counts[rows, xs.index(box.x0) : xs.index(box.x1)] += 1
    return [
        (Box(ys[row], ys[row + 1], xs[column], xs[column + 1]), int(counts[row, column]))
        for row, column in np.argwhere(counts > 1)
    ]


def _draw_map(axis: Canvas, one: TileMap, focus: int, grid: Grid, devices: Sequence[int]) -> None:
    axis.set_gid(f"tensor-{one.tensor}")
    colours = rank_colours(devices)
    for side in axis.spines.values():
        side.set_visible(False)
    if one.spans:
        _draw_slices(axis, one, colours, devices)
        return
    label = len(devices) <= _LABELLED
    for tile, box in enumerate(one.owned):
        if not box.empty:
            _rectangle(axis, box, facecolor=colours[tile], edgecolor="white", linewidth=0.6)
            if label:
                _label(axis, box, tile, one, len(devices))
    if one.action == "computes":
        _draw_shared(axis, one.reach)
    _draw_borders(axis, one, grid, devices)
    _draw_focus(axis, one, focus)
    axis.set(xlim=(0, one.width), ylim=(one.height, 0), aspect="equal")
    axis.set(xlabel="column of cells", ylabel="row of cells")
    axis.set_title(f"{_name(one)}\n{_sentence(one, focus)}", fontsize=8.5)


def _draw_slices(
    axis: Canvas, one: TileMap, colours: Sequence[str], devices: Sequence[int]
) -> None:
    for tile, (first, stop) in enumerate(one.spans):
        if first == stop:
            continue
        box = Box(0, one.height, first, stop)
        _rectangle(axis, box, facecolor=colours[tile], edgecolor="white", linewidth=0.6)
        if len(one.spans) <= _LABELLED:
            axis.text((first + stop) / 2, one.height / 2, str(tile), ha="center", va="center",
                      rotation=90 if len(one.spans) > 12 else 0, fontsize=8)  # fmt: skip
    for left, right in pairwise(range(len(one.spans))):
        if devices[left] != devices[right]:
            edge = one.spans[right][0]
            axis.plot([edge, edge], [0, one.height], color="black", linewidth=1.6)
    axis.set(xlim=(0, one.channels), ylim=(one.height, 0))
    axis.set(xlabel="channel", ylabel="row of cells")
    axis.set_box_aspect(0.6)
    none = sum(first == stop for first, stop in one.spans)
    text = "each rank has all cells of its channels"
    axis.set_title(f"{_name(one)}\n{text}{f', {none} rank(s) none' if none else ''}", fontsize=8.5)


def _name(one: TileMap) -> str:
    kind = one.layer if not one.tensor else f"output of layer {one.tensor - 1}, {one.layer}"
    return f"{kind}: {one.height}x{one.width}x{one.channels}"


def _sentence(one: TileMap, focus: int) -> str:
    owned, beyond = one.owned[focus], one.beyond(focus)
    has = f"rank {focus} owns {owned.height}x{owned.width}"
    if not beyond:
        return f"{has} cells and {one.action} no others"
    reach = one.reach[focus]
    if reach == whole(one.height, one.width):
        return f"{has} cells, {one.action} all {reach.height}x{reach.width}"
    share = f" (+{100 * beyond / owned.cells:.0f}%)" if owned.cells else ""
    return f"{has} cells, {one.action} {reach.height}x{reach.width}{share}"


def _label(axis: Canvas, box: Box, tile: int, one: TileMap, ranks: int) -> None:
    # A tile that is small against the map, as late in uneven tilings, keeps its colour alone.
    if min(box.height / one.height, box.width / one.width) < 0.04:
        return
    axis.text((box.x0 + box.x1) / 2, (box.y0 + box.y1) / 2, str(tile), ha="center", va="center",
              fontsize=9 if ranks <= 32 else 6, color="#222222")  # fmt: skip


def _draw_shared(axis: Canvas, reach: Sequence[Box]) -> None:
    from matplotlib.collections import PolyCollection

    shared = shared_cells(reach)
    corners = [
        [(b.x0, b.y0), (b.x1, b.y0), (b.x1, b.y1), (b.x0, b.y1)] for b, _ in shared
    ]  # fmt: skip
    tones = [(0.0, 0.0, 0.0, 0.2 if count == 2 else 0.38) for _, count in shared]
    cover = PolyCollection(corners, facecolors=tones, edgecolors="none", antialiased=False)
    cover.set_gid("shared-cells")
    axis.add_collection(cover)


def _draw_borders(axis: Canvas, one: TileMap, grid: Grid, devices: Sequence[int]) -> None:
    """Thick lines between neighbours on different devices."""
    width = 1.8 if len(devices) <= _LABELLED else 0.9
    for tile, box in enumerate(one.owned):
        row, column = grid.position(tile)
        if box.empty:
            continue
        if column + 1 < grid.columns and devices[tile] != devices[grid.tile(row, column + 1)]:
            _border(axis, (box.x1, box.x1), (box.y0, box.y1), width)
        if row + 1 < grid.rows and devices[tile] != devices[grid.tile(row + 1, column)]:
            _border(axis, (box.x0, box.x1), (box.y1, box.y1), width)


def _border(axis: Canvas, xs: tuple[int, int], ys: tuple[int, int], width: float) -> None:
    axis.plot(xs, ys, color="black", linewidth=width, solid_capstyle="projecting", gid="border")


def _draw_focus(axis: Canvas, one: TileMap, focus: int) -> None:
    owned, reach = one.owned[focus], one.reach[focus]
    for part in _around(reach, reach.intersect(owned)):
        _rectangle(axis, part, facecolor="none", edgecolor="#222222", linewidth=0, hatch="////")
    if one.beyond(focus):
        _rectangle(axis, reach, fill=False, edgecolor="black", linewidth=1.1, linestyle="--")
    if not owned.empty:
        _rectangle(axis, owned, fill=False, edgecolor="black", linewidth=1.4)


def _around(reach: Box, owned: Box) -> list[Box]:
    """What of a box lies outside another one inside it, in up to four boxes."""
    if owned.empty:
        return [] if reach.empty else [reach]
    parts = (
        Box(reach.y0, owned.y0, reach.x0, reach.x1),
        Box(owned.y1, reach.y1, reach.x0, reach.x1),
        Box(owned.y0, owned.y1, reach.x0, owned.x0),
        Box(owned.y0, owned.y1, owned.x1, reach.x1),
    )
    return [part for part in parts if not part.empty]


def _rectangle(axis: Canvas, box: Box, **style: object) -> None:
    from matplotlib.patches import Rectangle

    # Lines along the map's edge would else be cut in half.
    axis.add_patch(Rectangle((box.x0, box.y0), box.width, box.height, clip_on=False, **style))


def _legend(figure: Canvas, tilings: Sequence[LayerTiling], devices: Sequence[int]) -> None:
    """Of what there is to see."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    focus = {tiling.focus for tiling in tilings}
    ranks = f"rank {focus.pop()}" if len(focus) == 1 else "the rank named above"
    handles = [Patch(facecolor="none", edgecolor="black", linewidth=1.4, label=f"owned by {ranks}")]
    if any(one.beyond(tiling.focus) for tiling in tilings for one in tiling.maps):
        label = "halo or overlap of that rank"
        handles.append(
            Patch(facecolor="none", edgecolor="#222222", hatch="////", linestyle="--", label=label)
        )
    most = _most_computing(tilings)
    if most > 1:
        handles.append(Patch(facecolor="#C8C8C8", label="computed by 2 ranks"))
    if most > 2:
        handles.append(Patch(facecolor="#9A9A9A", label="by 3 or more"))
    if len(set(devices)) > 1:
        handles.append(Line2D([], [], color="black", linewidth=1.8, label="between devices"))
    figure.legend(handles=handles, loc="outside lower center", ncols=3)


def _most_computing(tilings: Sequence[LayerTiling]) -> int:
    """By how many ranks the cell is computed that most compute."""
    maps = [one for tiling in tilings for one in tiling.maps]
    computed = [one.reach for one in maps if one.action == "computes" and not one.spans]
    return max((count for reach in computed for _, count in shared_cells(reach)), default=1)
