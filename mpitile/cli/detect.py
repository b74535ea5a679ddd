"""``mpitile detect``: boxes in single images, as text and drawn."""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path

import numpy as np

from mpitile.checkpoint.weights_file import read_weights
from mpitile.cli.world import World
from mpitile.comm.agree import on_first, together
from mpitile.comm.topology import Topology, make_topology
from mpitile.data.images import read_image
from mpitile.data.placement import Placement, letterbox, restore_boxes, sample_box
from mpitile.errors import InputError
from mpitile.network.cfg import read_network
from mpitile.network.heads import heads
from mpitile.network.spec import Network
from mpitile.plan.by_rule import choose_plan
from mpitile.plan.partition import Partition
from mpitile.report.draw import detection_lines, draw_detections
from mpitile.runtime.parameters import Parameters
from mpitile.runtime.program import Program
from mpitile.train.detections import suppress
from mpitile.train.evaluation import inference_step, owned_detections
from mpitile.train.setup import read_names

EXAMPLE = (
    "mpitile detect photo.jpg --cfg jobs/cfg/bccd-tiny.cfg "
    "--weights runs/bccd/final.weights --names jobs/bccd.names"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("images", nargs="+", metavar="IMAGE")
    parser.add_argument("--cfg", required=True, metavar="NET.cfg")
    parser.add_argument("--weights", required=True, metavar="FILE")
    parser.add_argument("--names", required=True, metavar="FILE", help="a class name a line")
    parser.add_argument("--threshold", type=float, default=0.25, help="least score (0.25)")
    parser.add_argument("--overlap", type=float, default=0.45, help="IoU for suppression (0.45)")
    parser.add_argument(
        "--out", default=".", metavar="DIR", help="where IMAGE.detected.png is written (.)"
    )


def run(options: argparse.Namespace, world: World) -> None:
    comm = world.communicator()
    network, names, parameters = together(comm, lambda: _prepare(options))
    plan = choose_plan(network, comm.size)
    topology = make_topology(comm, plan)
    program = Program(Partition(network, plan), topology, parameters, 1, training=False)
    for image in options.images:
        pixels, placement = on_first(comm, partial(_read, image, network))
        rows = find(program, topology, pixels, placement, options.threshold, options.overlap)
        on_first(comm, partial(_show, Path(image), pixels, rows, names, Path(options.out)))


def _prepare(options: argparse.Namespace) -> tuple[Network, list[str], Parameters]:
    for name, value in (("--threshold", options.threshold), ("--overlap", options.overlap)):
        if not 0 <= value <= 1:
            raise InputError(f"{name} {value}: expected a number in [0, 1]")
    _check_targets(options.images)
    network = read_network(options.cfg)
    last = network.layers[-1]
    if not heads(network):
        raise InputError(
            f"{options.cfg}:{last.line}: detect needs a network that ends with [region] or "
            f"[yolo], got [{last.kind}]"
        )
    names = read_names(Path(options.names))
    if len(names) != last.operation.classes:
        raise InputError(
            f"{options.names}: expected {last.operation.classes} names for {options.cfg}, "
            f"got {len(names)}"
        )
    parameters = Parameters(network, np.float32)
    read_weights(options.weights, parameters)
    return network, names, parameters


def _check_targets(images: list[str]) -> None:
    """Two different images may not be drawn into the same file."""
    first: dict[str, str] = {}
    for image in images:
        name = _drawn_name(Path(image))
        if first.get(name, image) != image:
            raise InputError(
                f"{first[name]} and {image} would both be drawn into {name}: expected images of "
                "different names in one call"
            )
        first[name] = image


def _drawn_name(image: Path) -> str:
    return f"{image.stem}.detected.png"


def _read(image: str, network: Network) -> tuple[np.ndarray, Placement]:
    pixels = read_image(image)
    shape = network.shape(0)
    return pixels, letterbox(pixels.shape[1], pixels.shape[0], shape.width, shape.height)


def find(
    program: Program,
    topology: Topology,
    pixels: np.ndarray,
    placement: Placement,
    threshold: float,
    overlap: float,
) -> np.ndarray | None:
    """Detections in one image, relative to it, on rank 0. Collective."""
    tile = program.values[0]
    tile.array[0] = sample_box(pixels, placement, tile.box, tile.array.dtype)
    found = owned_detections(program, inference_step(topology, 1), threshold)
    parts = topology.world.gather(found[0])
    if parts is None:
        return None
    return restore_boxes(suppress(np.concatenate(parts), overlap), placement)


def _show(path: Path, pixels: np.ndarray, rows: np.ndarray, names: list[str], out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--out {out}: cannot be made a folder: {error.strerror}") from error
    height, width = pixels.shape[:2]
    target = out / _drawn_name(path)
    draw_detections(pixels, rows, names, target)
    sys.stdout.write(f"{path}: {len(rows)} boxes, drawn into {target}\n")
    for line in detection_lines(rows, names, width, height):
        sys.stdout.write(f"  {line}\n")
