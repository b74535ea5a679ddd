"""``mpitile plan``: what training would do, take and need, before anything runs."""

from __future__ import annotations

import argparse
import json
import os
import sys
from dataclasses import replace
from pathlib import Path

from mpitile.cli.options import add_override, pair
from mpitile.cli.world import World
from mpitile.errors import InputError
from mpitile.network.cfg import read_network
from mpitile.network.shapes import resize
from mpitile.plan.clusters.cluster import Cluster
from mpitile.plan.clusters.cluster_file import read_cluster
from mpitile.plan.clusters.generic import generic_cluster
from mpitile.plan.search.explain import alternatives
from mpitile.plan.search.request import Request
from mpitile.report.plan_pictures import check_target, plan_pictures, write_plan_pictures
from mpitile.report.plan_text import alternatives_text, plan_text
from mpitile.train.planning import (
    Source,
    answer,
    network_demand,
    plan_keys,
    plan_report,
    run_source,
)
from mpitile.train.settings import RunSettings, read_settings
from mpitile.train.setup import job_request

EXAMPLE = "mpitile plan jobs/y16.toml --cluster jobs/clusters/pi3-100mbit.toml --explain"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN.toml|NET.cfg", help="a run file, or a network alone")
    parser.add_argument(
        "--ranks",
        type=int,
        metavar="N",
        help="the cluster's first N ranks (all of them; without a cluster, those started, or "
        "one for each core)",
    )
    parser.add_argument(
        "--cluster",
        metavar="FILE",
        help="devices and links, as mpitile profile writes them (tiling.cluster; else one "
        "device of a common kind)",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument(
        "--explain", action="store_true", help="add the runners-up, and what each of them loses"
    )
    parser.add_argument(
        "--plot",
        metavar="OUT_DIR",
        type=Path,
        help="draw tiling, groups, a predicted step and memory into a folder, or into one file "
        "that ends in .svg, .png, .pdf or .html; needs matplotlib (pip install 'mpitile[plot]')",
    )
    parser.add_argument(
        "--layer",
        action="append",
        type=int,
        default=[],
        metavar="N",
        help="with --plot: the layer whose tiling is drawn; may be repeated (a few telling ones)",
    )
    parser.add_argument("--size", metavar="HxW", help="of a network alone: its input size")
    parser.add_argument("--batch", type=int, help="of a network alone: images of a step")
    add_override(parser)


def run(options: argparse.Namespace, world: World) -> None:
    world.on_first(lambda: _run(options, world.size))


def _run(options: argparse.Namespace, started: int) -> None:
    if options.ranks is not None and options.ranks < 1:
        raise InputError(f"--ranks {options.ranks}: expected at least 1")
    if options.layer and not options.plot:
        raise InputError(f"--layer {options.layer[0]}: expected --plot OUT_DIR with it")
    if options.plot:
        # Before planning, which may take long.
        check_target(options.plot)
    is_run = Path(options.run).suffix == ".toml"
    request, source = (_run_request if is_run else _cfg_request)(options, started)
    planner, planned = answer(request, source)
    drawn: list[Path] = []
    if options.plot:
        pictures = plan_pictures(planner, planned, options.layer)
        drawn = write_plan_pictures(pictures, options.plot, f"Plan of {options.run}")
    others = alternatives(planner, planned) if options.explain else []
    if options.json:
        report = plan_report(planner, planned)
        if options.explain:
            report["alternatives"] = [
                {
                    "name": other.name,
                    **plan_keys(other.planned.plan),
                    "step_seconds": other.seconds,
                    "largest_device_bytes": max(other.planned.devices),
                    "fits": other.planned.fits,
                }
                for other in others
            ]
        sys.stdout.write(json.dumps(report) + "\n")
        return
    sys.stdout.write(plan_text(planner, planned))
    if options.explain:
        sys.stdout.write(alternatives_text(planner, planned, others))
    if drawn:
        sys.stdout.write(f"\npictures: {', '.join(map(str, drawn))}\n")


def _run_request(options: argparse.Namespace, started: int) -> tuple[Request, Source]:
    for name in ("size", "batch"):
        if getattr(options, name) is not None:
            keys = {"size": "network.height and network.width", "batch": "train.batch"}
            raise InputError(
                f"--{name} is for a network alone: with a run file, --set {keys[name]}"
            )
    settings = read_settings(options.run, options.set)
    source = run_source(settings)
    if options.cluster:
        source = replace(source, cluster=options.cluster)
    cluster = _cluster(options, settings)
    ranks = _ranks(options, started, cluster)
    return job_request(settings, ranks, cluster=cluster), source


def _cfg_request(options: argparse.Namespace, started: int) -> tuple[Request, Source]:
    if options.set:
        raise InputError(f"--set {options.set[0]}: expected a run file, got {options.run}")
    network = read_network(options.run)
    if options.size:
        network = resize(network, *pair(options.size))
    batch = network.options.batch if options.batch is None else options.batch
    if batch < 1:
        raise InputError(f"--batch {batch}: expected at least 1")
    passes = 1 if options.batch else network.options.subdivisions
    optimizer = "adam" if network.options.adam else "sgd"
    cluster = read_cluster(options.cluster) if options.cluster else None
    ranks = _ranks(options, started, cluster)
    demand = network_demand(batch // passes, "float32", optimizer)
    request = Request(
        network,
        cluster or generic_cluster(("this host",) * ranks),
        ranks,
        demand,
        passes,
        optimizer,
    )
    return request, Source(options.run, cluster=options.cluster)


def _cluster(options: argparse.Namespace, settings: RunSettings) -> Cluster | None:
    if options.cluster:
        return read_cluster(options.cluster)
    name = settings.tiling.cluster
    return read_cluster(settings.input_path(name)) if name else None


def _ranks(options: argparse.Namespace, started: int, cluster: Cluster | None) -> int:
    if options.ranks:
        return options.ranks
    if cluster:
        return cluster.ranks
    return started if started > 1 else os.cpu_count() or 1
