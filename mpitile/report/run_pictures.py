"""Curves of a run: loss, rate, validation, where the time of steps went, speed and traffic."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isfinite, nan

import numpy as np

from mpitile.report.figures import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PINK,
    SKY,
    VERMILION,
    Canvas,
    Picture,
)
from mpitile.report.step_pictures import time_unit

Metrics = Mapping[str, Sequence[float]]

# Parts of a step by their column, as they are stacked.
PARTS = (
    ("compute_s", "computing", BLUE),
    ("halo_s", "halos", ORANGE),
    ("reduce_s", "sums", VERMILION),
    ("load_s", "waiting for images", PINK),
)
# Points of curves that are means of several steps.
_POINTS = 150
# A loss that falls further than this is drawn with a logarithmic axis.
_DECADES = 30.0
SCORES = {
    "mean_ap50": "mAP@0.5",
    "mean_ap": "mAP@0.5:0.95",
    "top1": "accuracy",
    "top5": "accuracy, best five",
}


def loss_picture(metrics: Metrics, resumed: Sequence[int]) -> Picture:
    """The loss of every step and its running mean, above the learning rate.

    Parameters
    ----------
    resumed : steps after which the run was taken up again.
    """
    steps, losses = metrics["step"], metrics["loss"]

    def draw(figure: Canvas) -> None:
        rates = "learning_rate" in metrics
        axes = figure.subplots(1 + rates, 1, sharex=True, squeeze=False,
                               height_ratios=(3, 1)[: 1 + rates])[:, 0]  # fmt: skip
        shown = [loss if isfinite(loss) else nan for loss in losses]
        axes[0].plot(steps, shown, color=SKY, linewidth=0.8, marker="." if len(steps) < 3 else "",
                     label="each step", gid="loss")  # fmt: skip
        width = max(1, len(steps) // 25)
        if width > 1:
            means = running_mean(shown, width)
            label = f"mean of {width} steps"
            axes[0].plot(steps, means, color=BLUE, linewidth=1.8, label=label)
        known = [loss for loss in shown if isfinite(loss)]
        logarithmic = bool(known) and min(known) > 0 and max(known) > _DECADES * min(known)
        axes[0].set_yscale("log" if logarithmic else "linear")
        axes[0].set_ylabel("loss of a step")
        if rates:
            axes[1].plot(steps, metrics["learning_rate"], color=GREEN, linewidth=1.4, gid="rate")
            axes[1].set_ylabel("learning rate")
            axes[1].set_ylim(bottom=0)
        _mark_resumed(axes[0], resumed)
        axes[0].legend(loc="upper right")
        _finish(axes, "step")

    lost = sum(not isfinite(loss) for loss in losses)
    title = "Loss and learning rate" + (f" ({lost} step(s) without a finite loss)" if lost else "")
    return Picture(
        "loss",
        title,
        "The loss adds up over the images of a step as the network defines it; thin line: each "
        "step, thick line: its running mean."
        + (" Dotted lines are where the run was taken up again." if resumed else ""),
        (8.6, 4.6),
        draw,
    )


def validation_picture(scores: Sequence[Mapping[str, float]]) -> Picture:
    """Scores over steps; each has its `step`, and the figures of a score."""
    kinds = [key for key in SCORES if any(isinstance(s.get(key), int | float) for s in scores)]

    def draw(figure: Canvas) -> None:
        axis = figure.subplots()
        for kind, colour in zip(kinds, (BLUE, ORANGE, GREEN, PINK), strict=False):
            points = [(s["step"], s[kind]) for s in scores if isinstance(s.get(kind), int | float)]
            axis.plot(*zip(*points, strict=True), "o-", color=colour, label=SCORES[kind],
                      markersize=4, gid=f"score-{kind}")  # fmt: skip
            best = max(points, key=lambda point: point[1])
            axis.annotate(f"{best[1]:.3g}", best, xytext=(0, 5), textcoords="offset points",
                          ha="center", fontsize=8)  # fmt: skip
        axis.set_ylim(0, 1.15 * max((s[k] for s in scores for k in kinds if s.get(k)), default=1))
        axis.set_ylabel("score, 0 to 1")
        axis.legend(loc="lower right")
        _finish([axis], "step")

    return Picture(
        "validation",
        "Validation",
        "Scores on images that were not trained on; the number stands at the best, whose weights "
        "are best.weights.",
        (8.6, 3.2),
        draw,
    )


def time_picture(metrics: Metrics) -> Picture:
    """Parts of a step, stacked, below the whole step."""
    parts = [part for part in PARTS if part[0] in metrics]

    def draw(figure: Canvas) -> None:
        axis = figure.subplots()
        whole = metrics["seconds"]
        scale, unit = time_unit(float(np.median(whole)))
        steps = block_means(metrics["step"])
        stacked = [scale * block_means(metrics[column]) for column, _, _ in parts]
        labels, colours = [p[1] for p in parts], [p[2] for p in parts]
        if len(steps) == 1:
            # A stack of one point would have no width.
            steps = np.array([steps[0] - 0.4, steps[0] + 0.4])
            stacked = [np.repeat(part, 2) for part in stacked]
        areas = axis.stackplot(steps, stacked, labels=labels, colors=colours, linewidth=0)
        for area, (column, _, _) in zip(areas, parts, strict=True):
            area.set_gid(f"part-{column}")
        seconds = np.resize(scale * block_means(whole), len(steps))
        axis.plot(steps, seconds, color="black", linewidth=1.3, label="whole step", gid="seconds")
        tops = np.concatenate([seconds, np.sum(stacked, axis=0)])
        # The first step takes memory and fills caches; the others would lie flat below it.
        ordinary = float(np.percentile(tops[2:] if len(tops) > 6 else tops, 98))
        axis.set_ylim(0, 1.15 * min(tops.max(), 2.5 * ordinary) or 1)
        axis.set_ylabel(f"time of a step, {unit}")
        figure.legend(loc="outside lower center", ncols=5)
        _finish([axis], "step")

    blocks = len(metrics["step"]) // _POINTS + 1
    means = f" Each point is the mean of {blocks} steps." if blocks > 1 else ""
    return Picture(
        "time",
        "Where the time of a step went",
        "Each part is that of the rank where it was longest, so that together they may exceed the "
        "whole step (black line); below the line there is other work." + means,
        (8.6, 3.6),
        draw,
    )


def speed_picture(metrics: Metrics) -> Picture:
    """Images a second, and below it what the busiest device sends."""
    traffic = any(metrics.get("sent_mb", ()))

    def draw(figure: Canvas) -> None:
        axes = figure.subplots(1 + traffic, 1, sharex=True, squeeze=False,
                               height_ratios=(1.6, 1)[: 1 + traffic])[:, 0]  # fmt: skip
        steps = block_means(metrics["step"])
        rates = block_means(metrics["images_per_s"])
        axes[0].plot(steps, rates, color=BLUE, marker="." if len(steps) < 3 else "", gid="speed")
        middle = float(np.median(metrics["images_per_s"]))
        axes[0].axhline(middle, color=GREY, linestyle="--", linewidth=1,
                        label=f"median, {middle:.4g}")  # fmt: skip
        axes[0].legend(loc="lower right")
        axes[0].set_ylabel("images per second")
        axes[0].set_ylim(bottom=0)
        if traffic:
            sent = block_means(metrics["sent_mb"])
            axes[1].plot(steps, sent, color=ORANGE, marker="." if len(steps) < 3 else "",
                         gid="traffic")  # fmt: skip
            axes[1].set_ylabel("MB sent in a step")
            axes[1].set_ylim(0, 1.2 * float(np.max(sent)) or 1)
        _finish(axes, "step")

    return Picture(
        "speed",
        "Speed and traffic" if traffic else "Speed",
        "Below: what the ranks of the busiest device send to other devices in a step: halos, "
        "partial deltas, gradients and weights."
        if traffic
        else "Nothing is sent to another device.",
        (8.6, 3.8 if traffic else 2.6),
        draw,
    )


def running_mean(values: Sequence[float], width: int) -> np.ndarray:
    """Of the last `width` values at each place, as many as there are; nan does not count."""
    array = np.asarray(values, float)
    known = np.isfinite(array)
    sums = np.concatenate([[0.0], np.cumsum(np.where(known, array, 0.0))])
    counts = np.concatenate([[0], np.cumsum(known)])
    ends = np.arange(1, len(array) + 1)
    starts = np.maximum(0, ends - width)
    found = counts[ends] - counts[starts]
    return np.where(found > 0, (sums[ends] - sums[starts]) / np.maximum(found, 1), nan)


def block_means(values: Sequence[float]) -> np.ndarray:
    """Means of blocks of equally many values, so that about `_POINTS` are left."""
    size = len(values) // _POINTS + 1
    starts = np.arange(0, len(values), size)
    lengths = np.diff([*starts, len(values)])
    return np.add.reduceat(np.asarray(values, float), starts) / lengths


def _mark_resumed(axis: Canvas, resumed: Sequence[int]) -> None:
    for number, step in enumerate(resumed):
        axis.axvline(step + 0.5, color=GREY, linestyle=":", linewidth=1.2, gid="resumed",
                     label="resumed" if number == 0 else None)  # fmt: skip


def _finish(axes: Sequence[Canvas], label: str) -> None:
    from matplotlib.ticker import MaxNLocator

    for axis in axes:
        axis.grid(True, axis="y")
    axes[-1].set_xlabel(label)
    axes[-1].xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
