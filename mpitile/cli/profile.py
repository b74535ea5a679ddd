"""``mpitile profile``: what the cluster that it runs on can do."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from mpitile.cli.world import World
from mpitile.comm.agree import on_first, together
from mpitile.errors import InputError
from mpitile.network.cfg import read_network
from mpitile.network.common import common_networks
from mpitile.network.spec import Network
from mpitile.plan.clusters.cluster import Cluster
from mpitile.plan.clusters.cluster_file import write_cluster
from mpitile.train.profiling import profile
from mpitile.train.settings import read_settings
from mpitile.train.setup import job_network

EXAMPLE = "mpirun -np 24 --hostfile hosts mpitile profile jobs/yolov2.toml --out cluster.toml"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "networks",
        nargs="*",
        metavar="NET.cfg|RUN.toml",
        help="whose layers to measure; else layers in common use",
    )
    parser.add_argument("--out", default="cluster.toml", metavar="FILE", help="(cluster.toml)")
    parser.add_argument(
        "--seconds", type=float, default=60, help="about how long the layers may take (60)"
    )


def run(options: argparse.Namespace, world: World) -> None:
    comm = world.communicator()
    networks = together(comm, lambda: _prepare(options))
    start = time.perf_counter()
    cluster = profile(comm, networks, options.seconds, lambda text: world.say(f"measuring {text}"))

    def write() -> None:
        names = ", ".join(network.name for network in networks)
        heading = (
            f"What mpitile profile measured in {time.perf_counter() - start:.0f} s with "
            f"{comm.size} rank(s), layers of {names}.\nPoints of kernels are images, rows and "
            "columns of a layer's output, and milliseconds."
        )
        write_cluster(cluster, options.out, heading)
        sys.stdout.write(_summary(cluster, options.out))

    on_first(comm, write)


def _prepare(options: argparse.Namespace) -> list[Network]:
    if not options.seconds > 0:
        raise InputError(f"--seconds {options.seconds}: expected a positive number")
    folder = Path(options.out).parent
    if not folder.is_dir():
        raise InputError(f"--out {options.out}: {folder} is no folder")
    networks = [_network(name) for name in options.networks]
    return networks or list(common_networks())


def _network(name: str) -> Network:
    if Path(name).suffix == ".toml":
        return job_network(read_settings(name))
    return read_network(name)


def _summary(cluster: Cluster, path: str) -> str:
    lines = [f"{path}: {len(cluster.devices)} device(s), {cluster.ranks} rank(s)"]
    for device in {id(device.speed): device for device in cluster.devices}.values():
        speed = device.speed
        figures = [speed.flops[kind, "forward"] / 1e9 for kind in ("3x3", "1x1")]
        memory = f"{device.memory / 1e9:.1f} GB" if device.memory else "unknown memory"
        lines.append(
            f"  {device.name}: {device.ranks} rank(s), {memory}; each rank "
            f"{figures[0]:.1f} GFLOP/s 3x3, {figures[1]:.1f} 1x1, {speed.bytes / 1e9:.1f} GB/s, "
            f"{100 * speed.share:.0f}% of a core"
        )
    for name, link in (("inside devices", cluster.inside), ("between", cluster.between)):
        lines.append(f"  {name}: {link.latency * 1e6:.0f} us, {link.bandwidth / 1e6:.1f} MB/s")
    lines.append(f"  the medium is {cluster.medium}")
    return "\n".join(lines) + "\n"
