"""``mpitile check``: the proof that tiles take the step that one rank takes."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace

import numpy as np

from mpitile.cli.options import pair
from mpitile.cli.world import World
from mpitile.comm.agree import on_first, together
from mpitile.errors import EXIT_DONE, EXIT_FAILURE, InputError
from mpitile.kernels.choice import Choices
from mpitile.network.cfg import read_network
from mpitile.network.shapes import resize
from mpitile.network.spec import Network
from mpitile.plan.by_rule import choose_plan, recompute_flags
from mpitile.plan.filters import all_filters, check_filters, split_at_switches
from mpitile.plan.plan import Plan
from mpitile.train.proof import (
    Difference,
    Record,
    compare,
    random_problem,
    run_alone,
    run_tile_by_tile,
    run_tiled,
)

EXAMPLE = "mpirun -np 4 mpitile check jobs/cfg/yolov2-tiny.cfg --grid 2x2 --size 224x224"
TOLERANCES = {"float64": 1e-12, "float32": 1e-4}
# A second step starts from weights that differ in their last bit. In float64 that is
# nothing, but in float32 now and then a max-pool chooses the other of two nearly equal
# cells: a jump of some cells' gradients, right either way, that no tolerance bounds.
STEPS = {"float64": 3, "float32": 1}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("cfg", metavar="NET.cfg")
    parser.add_argument(
        "--grid", required=True, metavar="GYxGX", help="tiles, such as 2x2, or 4x6/2x2 in blocks"
    )
    parser.add_argument("--groups", default="auto", metavar="0,4,8", help="first layers, or auto")
    parser.add_argument(
        "--recompute",
        default="none",
        metavar="0,2",
        help="numbers of the groups that compute their inner values twice, or all or none (none)",
    )
    parser.add_argument(
        "--filters",
        default="none",
        metavar="18,19",
        help="layers whose filters are divided over the tiles' ranks, or all that can be, or none "
        "(none)",
    )
    parser.add_argument("--replicas", type=int, default=1, help="teams that share a batch (1)")
    parser.add_argument(
        "--ranks-per-device",
        type=int,
        metavar="K",
        help="add up gradients as on devices of K ranks each (those that share memory)",
    )
    parser.add_argument("--dtype", choices=sorted(TOLERANCES), default="float64")
    parser.add_argument("--batch", type=int, default=1, help="images (1)")
    parser.add_argument("--size", metavar="HxW", help="input size instead of the cfg's")
    parser.add_argument(
        "--steps", type=int, help="training steps (3; in float32 1, as pools may flip afterwards)"
    )
    parser.add_argument("--seed", type=int, default=1, help="of weights and data (1)")
    parser.add_argument(
        "--kernels",
        choices=["exact", "fast"],
        default="exact",
        help="exact: algorithms whose result does not depend on the tile (default); fast: those "
        "of training, whose roundings make pools flip in float32",
    )
    parser.add_argument(
        "--tolerance",
        type=float,
        help="largest relative difference allowed (float64: 1e-12, float32: 1e-4)",
    )


def run(options: argparse.Namespace, world: World) -> int:
    comm = world.communicator()
    if options.steps is None:
        options.steps = STEPS[options.dtype]
    network, plan = together(comm, lambda: _prepare(options, comm.size))
    problem = random_problem(
        network,
        options.batch,
        np.dtype(options.dtype),
        options.steps,
        options.seed,
        Choices(exact=options.kernels == "exact"),
        options.ranks_per_device or "auto",
    )
    if comm.size == 1:
        tiled: Record | None = run_tile_by_tile(problem, plan)
    else:
        tiled = run_tiled(problem, plan, comm)

    def judge() -> list[Difference]:
        return compare(run_alone(problem, plan.groups), tiled)

    differences = on_first(comm, judge)
    tolerance = options.tolerance
    if tolerance is None:
        tolerance = TOLERANCES[options.dtype]
    if world.rank == 0:
        _print(network, plan, comm.size, options, differences, tolerance)
    good = all(difference.largest <= tolerance for difference in differences)
    return EXIT_DONE if good else EXIT_FAILURE


def _prepare(options: argparse.Namespace, ranks: int) -> tuple[Network, Plan]:
    for name, least in (("batch", 1), ("steps", 1), ("replicas", 1), ("seed", 0)):
        value = getattr(options, name)
        if value < least:
            raise InputError(f"--{name} {value}: expected at least {least}")
    if options.ranks_per_device is not None and options.ranks_per_device < 1:
        raise InputError(f"--ranks-per-device {options.ranks_per_device}: expected at least 1")
    if options.tolerance is not None and not options.tolerance >= 0:
        raise InputError(f"--tolerance {options.tolerance}: expected a number from 0 on")
    if options.batch % options.replicas:
        raise InputError(
            f"--batch {options.batch}: expected a multiple of --replicas {options.replicas}"
        )
    network = read_network(options.cfg)
    if options.size:
        network = resize(network, *pair(options.size))
    rows, columns = pair(options.grid.partition("/")[0], "--grid")
    wanted = rows * columns * options.replicas
    if ranks not in (1, wanted):
        raise InputError(
            f"--grid {options.grid} with {options.replicas} replica(s) needs {wanted} ranks, or "
            f"one that computes tile by tile, but {ranks} were started"
        )
    groups = options.groups
    if groups != "auto":
        groups = _numbers(groups, "--groups", "layer numbers such as 0,4,8")
    recompute = options.recompute
    if recompute not in ("all", "none"):
        recompute = _numbers(recompute, "--recompute", "all, none or group numbers such as 0,2")
    plan = choose_plan(network, wanted, options.grid, groups, options.replicas, "none")
    filters = _filters(options.filters, network)
    starts = split_at_switches(network, plan.groups, filters)
    flags = recompute_flags(recompute, len(starts))
    return network, replace(plan, groups=starts, recompute=flags, filters=filters)


def _filters(text: str, network: Network) -> tuple[int, ...]:
    """The filter-parallel layers that ``--filters`` names."""
    if text == "all":
        return all_filters(network)
    numbers = () if text == "none" else _numbers(text, "--filters", "all, none or layers")
    check_filters(network, numbers)
    return tuple(sorted(set(numbers)))


def _numbers(text: str, option: str, expected: str) -> list[int]:
    try:
        return [int(number) for number in text.split(",")]
    except ValueError:
        raise InputError(f"{option} {text}: expected {expected}") from None


def _again(plan: Plan) -> str:
    flagged = [str(number) for number, flag in enumerate(plan.recompute) if flag]
    return f", groups {','.join(flagged)} of these recomputed" if flagged else ""


def _divided(plan: Plan) -> str:
    numbers = ",".join(map(str, plan.filters))
    return f", layers {numbers} divided by filters" if numbers else ""


def _print(
    network: Network,
    plan: Plan,
    ranks: int,
    options: argparse.Namespace,
    differences: list[Difference],
    tolerance: float,
) -> None:
    how = f"{ranks} ranks" if ranks > 1 else "tile by tile on one rank"
    shape = network.shape(0)
    sys.stdout.write(
        f"{network.name} at {shape.height}x{shape.width}, batch {options.batch}, "
        f"{options.dtype}, {options.steps} steps\n"
        f"grid {plan.grid}, replicas {plan.replicas}, groups "
        f"{','.join(map(str, plan.groups))}{_again(plan)}{_divided(plan)}: {how}, against one "
        "rank\n"
    )
    names = {"gradients": "weight gradients"}
    for difference in differences:
        verdict = "" if difference.largest <= tolerance else "   BEYOND TOLERANCE"
        name = names.get(difference.kind, difference.kind)
        sys.stdout.write(
            f"  {name:16}  {difference.largest:9.2e}  at {difference.where}{verdict}\n"
        )
    sys.stdout.write(f"largest relative differences; allowed {tolerance:g}\n")
