"""A step, drawn: its timeline rank by rank, and what each fused group costs."""

from __future__ import annotations

from collections.abc import Sequence

from mpitile.report.figures import (
    BLUE,
    GREY,
    ORANGE,
    PINK,
    SKY,
    VERMILION,
    Canvas,
    Picture,
    lighter,
)
from mpitile.report.step_view import (
    BACKWARD,
    DOINGS,
    FORWARD,
    HALOS,
    IMAGES,
    OTHER,
    SUMS,
    GroupCost,
    GroupView,
    StepView,
)

COLOURS = {FORWARD: SKY, BACKWARD: BLUE, OTHER: GREY, IMAGES: PINK, HALOS: ORANGE, SUMS: VERMILION}
_LABELS = {
    FORWARD: "forward",
    BACKWARD: "backward",
    OTHER: "update and other work",
    IMAGES: "images, and agreeing that all were read",
    HALOS: "halos, with waiting for them",
    SUMS: "sums, with waiting for them",
}
# More rows would be too thin to read.
_MOST_RANKS = 48


def timeline_picture(view: StepView, title: str) -> Picture:
    """A row for each rank; of many ranks evenly chosen ones."""
    ranks = chosen_ranks(len(view.bars))

    done = [what for what in DOINGS if view.spent(what)]

    def draw(figure: Canvas) -> None:
        axis = figure.subplots()
        scale, unit = time_unit(view.seconds)
        for doing in done:
            _draw_bars(axis, view, ranks, doing, scale)
        _device_lines(axis, [view.devices[rank] for rank in ranks])
        step = max(1, len(ranks) // 24)
        axis.set_yticks(range(0, len(ranks), step), [str(rank) for rank in ranks[::step]])
        axis.set(xlim=(0, view.seconds * scale or 1), ylim=(len(ranks) - 0.5, -0.5))
        axis.set(xlabel=f"time in the step, {unit}", ylabel="rank")
        axis.tick_params(axis="y", length=0)
        figure.legend(
            handles=[_patch(COLOURS[what], _LABELS[what]) for what in done],
            loc="outside lower center",
            ncols=3,
        )

    shares = ", ".join(
        f"{_percent(sum(view.spent(what) for what in some), view.seconds)} {name}"
        for name, some in (
            ("computing", (FORWARD, BACKWARD, OTHER)),
            ("images", (IMAGES,)),
            ("halos", (HALOS,)),
            ("sums", (SUMS,)),
        )
        if name != "images" or view.spent(IMAGES) > 0.005 * view.seconds
    )
    shown = "" if len(ranks) == len(view.bars) else f"; {len(ranks)} of {len(view.bars)} ranks"
    return Picture(
        "timeline",
        f"{title}: {seconds_text(view.seconds)}, of the mean rank {shares}{shown}",
        "What each rank does at each moment of the step. Blue is useful work; orange and red are "
        "time in which the rank waits for neighbours' cells or for sums over all ranks; white is "
        "having nothing left to do. A rank that computes when others wait is what they wait for.",
        (9.2, 1.7 + 0.2 * max(4, len(ranks))),
        draw,
    )


def chosen_ranks(count: int) -> list[int]:
    """All ranks, or evenly chosen ones of many, the first and last among them."""
    if count <= _MOST_RANKS:
        return list(range(count))
    return [round(n * (count - 1) / (_MOST_RANKS - 1)) for n in range(_MOST_RANKS)]


def _draw_bars(
    axis: Canvas, view: StepView, ranks: Sequence[int], doing: str, scale: float
) -> None:
    from matplotlib.collections import PolyCollection

    corners = []
    for row, rank in enumerate(ranks):
        top, bottom = row - 0.42, row + 0.42
        corners += [
            [(a * scale, top), (b * scale, top), (b * scale, bottom), (a * scale, bottom)]
            for a, b, what in view.bars[rank]
            if what == doing
        ]
    bars = PolyCollection(corners, facecolors=COLOURS[doing], edgecolors="none")
    bars.set_gid(f"doing-{doing.split()[0]}")
    axis.add_collection(bars)


def _device_lines(axis: Canvas, devices: Sequence[str]) -> None:
    """Lines between devices, and their names at the right."""
    starts = [row for row, name in enumerate(devices) if not row or devices[row - 1] != name]
    if 1 < len(starts) <= 24:
        for row in starts[1:]:
            axis.axhline(row - 0.5, color="black", linewidth=0.8)
        for row, stop in zip(starts, [*starts[1:], len(devices)], strict=True):
            axis.text(1.005, (row + stop - 1) / 2, devices[row], va="center", fontsize=8,
                      transform=axis.get_yaxis_transform())  # fmt: skip


def group_picture(view: GroupView) -> Picture:
    """Two charts over the layers: what each costs to compute, and what each group costs in all."""
    layers = view.groups[-1].stop

    def draw(figure: Canvas) -> None:
        scale, unit = time_unit(view.seconds)
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(1, 1.25))
        _draw_tasks(upper, view, scale)
        upper.set_ylabel(f"computing, {unit}")
        _draw_groups(lower, view, scale)
        lower.set_ylabel(f"whole group, {unit}")
        _name_layers(lower, view)
        for axis in (upper, lower):
            axis.grid(True, axis="y")
            _shade_groups(axis, view)
            axis.set_xlim(-0.7, layers + 0.8)

    again = any(group.recompute for group in view.groups)
    return Picture(
        "groups",
        f"{len(view.groups)} fused group(s), a simulated step of {seconds_text(view.seconds)}",
        "Above, the seconds that the mean rank computes each layer in a step"
        + (" (grey: forward a second time, to save memory)" if again else "")
        + "; a pool that is computed with the convolution before it shares its bar. Below, each "
        "group as a block as wide as its layers: computing, of it the overlap that other ranks "
        "compute as well, halos, and sums for batch norm, waiting included. The last block "
        "is what belongs to no group: summing gradients, updating weights. Percentages are of the "
        "step. Many narrow blocks with much orange want longer groups, blocks with much light "
        "blue shorter ones.",
        (max(8.2, 3.2 + 0.3 * layers), 6.4),
        draw,
    )


def _draw_tasks(axis: Canvas, view: GroupView, scale: float) -> None:
    kinds = (("forward", SKY), ("again", GREY), ("backward", BLUE))
    tasks = [task for group in view.groups for task in group.tasks]
    middles = [(task.first + task.last) / 2 for task in tasks]
    widths = [task.last - task.first + 0.8 for task in tasks]
    bottoms = [0.0] * len(tasks)
    for kind, colour in kinds:
        heights = [scale * getattr(task, kind) for task in tasks]
        if kind == "again" and not any(heights):
            continue
        label = {"again": "forward once more"}.get(kind, kind)
        axis.bar(middles, heights, widths, bottoms, color=colour, label=label)
        bottoms = [a + b for a, b in zip(bottoms, heights, strict=True)]
    axis.set_ylim(0, 1.05 * max(bottoms) or 1)
    _legend_above(axis, 1.07)


def _legend_above(axis: Canvas, height: float = 1.0) -> None:
    """Where it covers no bar."""
    axis.legend(loc="lower left", bbox_to_anchor=(0, height), borderaxespad=0.2, ncols=6)


def _draw_groups(axis: Canvas, view: GroupView, scale: float) -> None:
    layers = view.groups[-1].stop
    starts = [group.first - 0.45 for group in view.groups] + [layers - 0.3]
    widths = [group.stop - group.first - 0.1 for group in view.groups] + [0.9]
    parts = (
        ("computing", BLUE, [group.computing - group.overlap for group in view.groups] + [0.0]),
        ("of it, overlap", lighter(BLUE, 0.55), [g.overlap for g in view.groups] + [0.0]),
        ("halos", ORANGE, [group.halos for group in view.groups] + [0.0]),
        ("sums", VERMILION, [group.sums for group in view.groups] + [view.sums]),
        ("update and other", GREY, [0.0] * len(view.groups) + [view.other]),
        ("idle at the end", PINK, [0.0] * len(view.groups) + [view.idle]),
    )
    bottoms = [0.0] * len(starts)
    for label, colour, seconds in parts:
        heights = [scale * value for value in seconds]
        if not any(heights):
            continue
        axis.bar(starts, heights, widths, bottoms, align="edge", color=colour, label=label,
                 edgecolor="white", linewidth=0.3)  # fmt: skip
        bottoms = [a + b for a, b in zip(bottoms, heights, strict=True)]
    totals = [group.seconds for group in view.groups] + [view.other + view.sums + view.idle]
    small = len(starts) > 20
    for start, width, top, total in zip(starts, widths, bottoms, totals, strict=True):
        axis.annotate(
            _percent(total, view.seconds),
            (start + width / 2, top),
            xytext=(0, 1.5),
            textcoords="offset points",
            ha="center",
            va="bottom",
            fontsize=6.5 if small else 8,
            rotation=90 if small else 0,
        )
    axis.set_ylim(0, (1.25 if small else 1.1) * max(bottoms) or 1)
    _legend_above(axis)


def _name_layers(axis: Canvas, view: GroupView) -> None:
    names: dict[int, str] = {}
    for group in view.groups:
        for task in group.tasks:
            numbers = range(task.first, task.last + 1)
            names |= dict(zip(numbers, task.label.split(" + "), strict=True))
    labels = [f"{name}  {number}" for number, name in sorted(names.items())]
    axis.set_xticks(
        [*sorted(names), view.groups[-1].stop + 0.15],
        [*labels, "end of step"],
        rotation=90,
        fontsize=7.5,
    )
    axis.set_xlabel("layer, in the network's order")


def _shade_groups(axis: Canvas, view: GroupView) -> None:
    """Bands behind every other group; hatched ones compute forward twice."""
    for number, group in enumerate(view.groups):
        left, right = group.first - 0.5, group.stop - 0.5
        if number % 2 == 0:
            axis.axvspan(left, right, color="#F1F1F1", zorder=-2, linewidth=0)
        if group.recompute:
            axis.axvspan(left, right, facecolor="none", edgecolor="#BBBBBB", hatch="..", zorder=-1,
                         linewidth=0, gid=f"recompute-{number}")  # fmt: skip
        if group.first and axis.get_subplotspec().is_first_row():
            axis.axvline(left, color="#888888", linewidth=0.6)
        if axis.get_subplotspec().is_first_row():
            _mark(axis, group, number)


def _mark(axis: Canvas, group: GroupCost, number: int) -> None:
    notes = [
        f"{number}",
        "recomputed" if group.recompute else "",
        "filters" if group.filters else "",
    ]
    narrow = group.stop - group.first < 3
    axis.text(
        (group.first + group.stop - 1) / 2,
        1.01,
        " ".join(filter(None, notes)),
        ha="center",
        va="bottom",
        rotation=90 if narrow and any(notes[1:]) else 0,
        fontsize=7.5,
        transform=axis.get_xaxis_transform(),
    )


def time_unit(seconds: float) -> tuple[float, str]:
    """The factor and name of the unit in which such times are told."""
    return (1.0, "s") if seconds >= 1 else (1000.0, "ms")


def seconds_text(seconds: float) -> str:
    """Such as ``1.25 s`` or ``37.5 ms``."""
    scale, unit = time_unit(seconds)
    return f"{scale * seconds:.3g} {unit}"


def _percent(part: float, total: float) -> str:
    share = 100 * part / total if total else 0.0
    return f"{share:.1f}%" if 0 < share < 2 else f"{share:.0f}%"


def _patch(colour: str, label: str) -> Canvas:
    from matplotlib.patches import Patch

    return Patch(facecolor=colour, label=label)
