"""Memory by kind, drawn: each device against its limit, and each rank."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf

from mpitile.plan.memory.bytes import KINDS
from mpitile.report.figures import (
    BLUE,
    GREEN,
    GREY,
    HUES,
    ORANGE,
    PINK,
    SKY,
    YELLOW,
    Canvas,
    Picture,
    lighter,
)

# What is trained in blues, what a pass holds in warm colours.
COLOURS = {
    "weights": BLUE,
    "gradients": SKY,
    "optimizer": lighter(BLUE, 0.72),
    "activations": ORANGE,
    "deltas": YELLOW,
    "workspace": GREY,
    "halos": GREEN,
    "images": PINK,
    "sums": "#3B3B3B",
}
_NAMED = 32


@dataclass(frozen=True)
class MemoryView:
    """Bytes of ranks by kind.

    Attributes
    ----------
    ranks : by rank, its bytes by kind.
    devices : the ranks of each device.
    names : of devices.
    limits : of devices, in bytes; infinite for none.
    measured : by rank, by how many bytes its process has grown, where that is known.
    """

    ranks: Sequence[Mapping[str, int]]
    devices: Sequence[Sequence[int]]
    names: Sequence[str]
    limits: Sequence[float]
    measured: Sequence[int] = ()

    def kinds(self) -> list[str]:
        """Those of which there is any."""
        known = [kind for kind in KINDS if any(rank.get(kind) for rank in self.ranks)]
        others = {kind for rank in self.ranks for kind in rank if rank[kind]} - set(KINDS)
        return [*known, *sorted(others)]

    def device_bytes(self, kind: str) -> list[int]:
        """Of each device."""
        return [sum(self.ranks[rank].get(kind, 0) for rank in own) for own in self.devices]

    def device_measured(self) -> list[int]:
        """Of each device; empty where nothing is known."""
        if not self.measured:
            return []
        return [sum(self.measured[rank] for rank in own) for own in self.devices]


def memory_picture(view: MemoryView, title: str) -> Picture:
    """Devices above, ranks below."""
    alone = all(len(own) == 1 for own in view.devices)

    def draw(figure: Canvas) -> None:
        axes = figure.subplots(1 if alone else 2, 1, squeeze=False)[:, 0]
        labels = [f"{number} {name}" for number, name in enumerate(view.names)]
        _draw_bars(axes[0], view, [view.device_bytes(kind) for kind in view.kinds()], labels)
        _draw_limits(axes[0], view.limits)
        _draw_measured(axes[0], view.device_measured())
        axes[0].set(xlabel="device", ylabel="MB on a device")
        if not alone:
            order = [rank for own in view.devices for rank in own]
            rows = [[view.ranks[rank].get(kind, 0) for rank in order] for kind in view.kinds()]
            _draw_bars(axes[1], view, rows, [str(rank) for rank in order])
            _draw_measured(axes[1], [view.measured[rank] for rank in order if view.measured])
            axes[1].set(xlabel="rank", ylabel="MB of a rank")
            _draw_device_borders(axes[1], view)
        handles, names = axes[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside right center")

    return Picture(
        "memory",
        title,
        "Bytes of all arrays that the plan allocates, by kind. Ranks of a device share one copy "
        "of the weights, and of tensors that layers divided by filters read whole; it stands in "
        "the account of the first of them. Blue: what is trained; "
        "orange and yellow: what a pass holds for backward and its gradients. "
        + ("The black mark is by how much processes really grew. " if view.measured else "")
        + "A red line is the limit.",
        (max(6.8, min(12.0, 3.4 + 0.22 * len(view.ranks))), 3.0 if alone else 5.4),
        draw,
    )


def _draw_bars(
    axis: Canvas, view: MemoryView, rows: Sequence[Sequence[int]], labels: Sequence[str]
) -> None:
    bottoms = [0.0] * len(labels)
    for number, (kind, row) in enumerate(zip(view.kinds(), rows, strict=True)):
        heights = [size / 1e6 for size in row]
        colour = COLOURS.get(kind, HUES[number % len(HUES)])
        width = 0.8 if len(labels) <= 64 else 1.0
        axis.bar(range(len(labels)), heights, width, bottoms, color=colour, label=kind,
                 edgecolor="white", linewidth=0.2 if len(labels) <= 64 else 0)  # fmt: skip
        bottoms = [a + b for a, b in zip(bottoms, heights, strict=True)]
    if len(labels) <= 12:
        for place, top in enumerate(bottoms):
            axis.text(place, top, f"{top:.3g}", ha="center", va="bottom", fontsize=8)
    every = -(-len(labels) // _NAMED)
    places = range(0, len(labels), every)
    long = max(map(len, labels)) * len(places) > 90
    axis.set_xticks(places, [labels[place] for place in places], rotation=90 if long else 0)
    axis.set_xlim(-0.6, max(len(labels), 3) - 0.4)
    axis.margins(y=0.12)
    axis.grid(True, axis="y")


def _draw_limits(axis: Canvas, limits: Sequence[float]) -> None:
    """A line for each limit; where it lies far above the bars, a word."""
    known = [limit / 1e6 for limit in limits if limit < inf]
    if not known:
        return
    top = axis.get_ylim()[1]
    if min(known) > 3 * top:
        axis.set_title(f"limit {min(known):.4g} MB, far above", fontsize=8.5)
        return
    for place, limit in enumerate(limits):
        if limit < inf:
            axis.plot([place - 0.45, place + 0.45], [limit / 1e6] * 2, color="#C00000",
                      linewidth=2, gid="limit", label="limit" if place == 0 else None)  # fmt: skip
    axis.set_ylim(0, max(top, 1.08 * max(known)))


def _draw_measured(axis: Canvas, sizes: Sequence[int]) -> None:
    if sizes:
        axis.plot(range(len(sizes)), [size / 1e6 for size in sizes], linestyle="none", marker="_",
                  markersize=11, markeredgewidth=2, color="black", gid="measured",
                  label="measured growth")  # fmt: skip


def _draw_device_borders(axis: Canvas, view: MemoryView) -> None:
    if len(view.devices) > _NAMED:
        return
    behind = 0
    for own in view.devices[:-1]:
        behind += len(own)
        axis.axvline(behind - 0.5, color="black", linewidth=0.8)
