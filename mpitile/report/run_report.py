"""The report of a run folder: one page, and its pictures as files."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from operator import itemgetter
from pathlib import Path
from statistics import median

from PIL import Image

from mpitile.errors import InputError
from mpitile.report.figures import Picture, render, require_matplotlib, write_bytes
from mpitile.report.html_page import Photograph, Section, page
from mpitile.report.progress import duration
from mpitile.report.run_files import RunFiles, read_run, read_trace
from mpitile.report.run_pictures import (
    SCORES,
    loss_picture,
    speed_picture,
    time_picture,
    validation_picture,
)
from mpitile.report.run_plan import memory_section, plan_section
from mpitile.report.step_pictures import seconds_text, timeline_picture
from mpitile.report.step_view import step_view

# Of the last steps, which stand for the run at its end.
_LAST = 10
_MOST_PHOTOGRAPHS = 6
_PHOTOGRAPH_PIXELS = 640


def write_report(folder: Path, target: Path) -> None:
    """Write the page to `target`, and its pictures into a folder beside it with the same stem.

    Raises
    ------
    InputError : the run folder, a file in it or the target is no good; names it.
    """
    require_matplotlib()
    run = read_run(folder)
    sections = _sections(run)
    pictures = [p for section in sections for p in section.pictures if isinstance(p, Picture)]
    drawn: dict[str, bytes] = {}
    for picture in pictures:
        drawn[picture.name] = render([picture], "svg")
        write_bytes(target.with_suffix("") / f"{picture.name}.svg", drawn[picture.name])
        write_bytes(target.with_suffix("") / f"{picture.name}.png", render([picture], "png"))
    title = f"Run {folder.resolve().name}"
    write_bytes(target, page(title, facts(run), sections, state(run), drawn).encode())


def state(run: RunFiles) -> str:
    """Whether the run has ended, and how."""
    taken = int(max(run.metrics["step"], default=0))
    wanted = run.settings.train.steps
    of = f" of {wanted}" if wanted else ""
    for event in reversed(run.events):
        if event["event"] == "done":
            return f"Finished after {taken} steps."
        if event["event"] == "stopped":
            return f"Stopped by a signal after step {taken}{of}; train --resume continues."
        if event["event"] == "start":
            break
    return f"Not finished: step {taken}{of}. It runs still, or has been broken off."


def facts(run: RunFiles) -> list[tuple[str, str]]:
    """The table at the top of the page."""
    found = [("network", run.settings.network.cfg)]
    if run.plan and run.report:
        devices = len({rank.get("device", 0) for rank in run.report["ranks"]})
        plan = run.plan
        found.append(("ranks", f"{plan.ranks} on {devices} device(s)"))
        replicas = f", {plan.replicas} replicas" if plan.replicas > 1 else ""
        found.append(("plan", f"grid {plan.grid}{replicas}, {len(plan.groups)} fused group(s), "
                      f"{sum(plan.recompute)} of them recomputed"))  # fmt: skip
    found += _measured_facts(run)
    for event in run.named("memory")[-1:]:
        found.append(("memory planned", str(event.get("text", ""))))
    for event in run.named("peak")[-1:]:
        found.append(("memory measured", _growth(event.get("grown_bytes") or ())))
    found += [(name, f"an earlier run, {steps} steps") for name, steps in run.earlier]
    return found


def _measured_facts(run: RunFiles) -> list[tuple[str, str]]:
    metrics = run.metrics
    if not metrics["step"]:
        return []
    first, last = metrics["loss"][0], metrics["loss"][-_LAST:]
    mean = sum(last) / len(last)
    found = [("loss", f"{first:.4g} at first, {mean:.4g} over the last {len(last)} steps")]
    scores = [score for event in run.named("validation") if (score := _score(event))]
    if scores:
        name, best = max(scores, key=itemgetter(1))
        found.append((f"best {SCORES[name]}", f"{best:.4g}"))
    if "seconds" in metrics:
        step = median(metrics["seconds"])
        text = f"{seconds_text(step)} (median)"
        if run.report and run.report.get("step_seconds") and run.settings.tiling.cluster:
            text += f", predicted {seconds_text(run.report['step_seconds'])} without reading images"
        found += [("a step takes", text), ("all steps", duration(sum(metrics["seconds"])))]
    if "images_per_s" in metrics:
        found.append(("images per second", f"{median(metrics['images_per_s']):.4g} (median)"))
    if "sent_mb" in metrics:
        found.append(
            ("traffic", f"{median(metrics['sent_mb']):.4g} MB a step from the busiest device")
        )
    if "peak_rss_mb" in metrics:
        size = max(metrics["peak_rss_mb"]) * 2**20 / 1e6
        found.append(("largest process", f"{size:.0f} MB, libraries included"))
    return found


def _score(event: Mapping[str, object]) -> tuple[str, float] | None:
    """What a validation is judged by: the key, and its value."""
    for key in ("mean_ap50", "top1"):
        value = event.get(key)
        if isinstance(value, int | float):
            return key, float(value)
    return None


def _growth(sizes: Sequence[int]) -> str:
    if not sizes:
        return ""
    return f"processes grew by {max(sizes) / 1e6:.1f} MB at most, {sum(sizes) / 1e6:.1f} MB in all"


def _sections(run: RunFiles) -> list[Section]:
    trace = read_trace(run.folder / "trace.json")
    plan, remark = plan_section(run, timeline=trace is None)
    sections = [_learning(run), _seconds(run)]
    if trace:
        title = f"Traced step {trace.number + 1}"
        view = step_view(trace.intervals, trace.devices)
        sections.append(Section("A step as it was", (timeline_picture(view, title),)))
    sections.append(Section("Memory", memory_section(run)))
    sections.append(Section("The plan", plan, remark))
    if run.pictures:
        sections.append(Section("Detections", _photographs(run)))
    return [section for section in sections if section.pictures or section.text]


def _learning(run: RunFiles) -> Section:
    if not run.metrics["step"]:
        return Section("Learning", (), "No step has been completed yet.")
    resumed = [event["step"] for event in run.named("start")[1:] if event.get("step")]
    pictures = [loss_picture(run.metrics, resumed)]
    scores = [event for event in run.named("validation") if _score(event)]
    if scores:
        pictures.append(validation_picture(scores))
    return Section("Learning", tuple(pictures))


def _seconds(run: RunFiles) -> Section:
    pictures = []
    if run.metrics["step"] and "seconds" in run.metrics:
        pictures.append(time_picture(run.metrics))
    if run.metrics["step"] and "images_per_s" in run.metrics:
        pictures.append(speed_picture(run.metrics))
    return Section("Time", tuple(pictures))


def _photographs(run: RunFiles) -> tuple[Photograph, ...]:
    """Drawn detections, made small enough for a page."""
    found = []
    for path in run.pictures[:_MOST_PHOTOGRAPHS]:
        try:
            with Image.open(path) as opened:
                picture = opened.convert("RGB")
        except (OSError, ValueError) as error:
            raise InputError(f"{path}: expected a picture: {error}") from error
        picture.thumbnail((_PHOTOGRAPH_PIXELS, _PHOTOGRAPH_PIXELS))
        file = io.BytesIO()
        picture.save(file, "PNG")
        found.append(Photograph("png", file.getvalue(), path.name))
    return tuple(found)
