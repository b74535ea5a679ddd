"""Which ranks share a host, and which devices are alike."""

from dataclasses import replace
from math import inf
from types import SimpleNamespace

import numpy as np
import pytest

from mpitile.comm.local import run_ranks
from mpitile.errors import InputError
from mpitile.network.cfg import parse_network
from mpitile.plan.clusters.cluster import Point
from mpitile.runtime.pace import Pace
from mpitile.runtime.parameters import Parameters
from mpitile.runtime.profiling import Packing, TileTimes
from mpitile.train import device_speed, profiling
from mpitile.train.device_speed import Measured, merged

NETWORK = parse_network(
    "[net]\nheight=16\nwidth=16\n[convolutional]\nfilters=4\nsize=3\npad=1\nactivation=leaky\n"
    "[maxpool]\nsize=2\nstride=2\n",
    "net",
)


def test_ranks_of_hosts_in_order():
    assert profiling.host_ranks(["a", "a", "b", "c", "c"]) == [range(2), range(2, 3), range(3, 5)]
    assert profiling.host_ranks(["a"]) == [range(1)]


def test_ranks_dealt_round_are_refused():
    with pytest.raises(InputError, match="not numbered host by host"):
        profiling.host_ranks(["a", "b", "a", "b"])


def test_points_of_equal_size_become_their_median():
    key = ("pool", "forward")
    points = [{key: [Point(1, 2, 2, s), Point(1, 4, 4, 9.0)]} for s in (3.0, 1.0, 2.0)]
    assert merged(points) == {key: [Point(1, 2, 2, 2.0), Point(1, 4, 4, 9.0)]}


def host(name, seconds, model="m", ranks=1):
    points = {("maxpool 2/2 4", "forward"): [Point(1, 4, 4, seconds)]}
    one = Measured(points, 1e9, 1e9, 1e9, 1e-6, {"sgd": 1e-9, "adam": 2e-9}, 0.5)
    return profiling._Host(name, model, 10**9, (one,) * ranks)


def test_devices_alike_share_a_speed():
    hosts = [host("a", 1.0), host("b", 1.05), host("c", 2.0), host("d", 1.0, model="n")]
    devices = profiling._devices(hosts, [NETWORK])
    assert [device.name for device in devices] == ["a", "a", "c", "d"]
    assert devices[0].speed is devices[1].speed
    (point,) = devices[0].speed.kernels["maxpool 2/2 4"]["forward"]
    assert point.seconds == pytest.approx(1.025)
    assert devices[2].speed.share == 0.5


def test_work_that_nobody_wants_does_not_tell_the_rate_of_bytes():
    pools = [Point(1, cells, cells, 1e-5 + 4 * 4 * 5 * cells**2 / 1e9) for cells in (8, 32, 128)]
    # The image's gradient, however large the image.
    nothing = [Point(1, cells, cells, 1e-6) for cells in (8, 32, 128)]
    points = {
        ("maxpool 2/2 4", "forward"): pools,
        ("conv 3x3/1 3-4 leaky", "backward_input"): nothing,
    }
    one = Measured(points, 1e9, 1e9, 1e9, 1e-6, {"sgd": 1e-9, "adam": 2e-9}, 1.0)
    (device,) = profiling._devices([profiling._Host("a", "m", 10**9, (one,))], [NETWORK])
    assert device.speed.bytes == pytest.approx(1e9)
    assert device.speed.call == pytest.approx(1e-5)


def test_all_ranks_get_the_same_cluster(monkeypatch):
    monkeypatch.setattr(device_speed, "_IMAGES", (1,))
    told = []
    found = run_ranks(2, lambda world: profiling.profile(world, [NETWORK], 5.0, told.append))
    assert found[0] == found[1]
    (device,) = found[0].devices
    assert device.ranks == 2
    names = {"conv 3x3/1 3-4 leaky", "maxpool 2/2 4", "conv 3x3/1 3-4 leaky + maxpool 2/2"}
    assert names <= set(device.speed.kernels)
    # The image has 2x2 pooled cells for each of 8x8 tiles at most.
    sizes = {(p.rows, p.columns) for p in device.speed.kernels["maxpool 2/2 4"]["forward"]}
    assert {(8, 8), (8, 4), (4, 4), (4, 2), (2, 2)} <= sizes
    assert 0 < device.speed.share <= 1
    assert device.speed.sum > 0


def test_too_little_memory_is_an_error_on_all_ranks(monkeypatch):
    monkeypatch.setattr(device_speed, "device_memory", lambda: 1000)
    with pytest.raises(InputError, match="not even one of 48 tiles of an image fits"):
        run_ranks(2, lambda world: profiling.profile(world, [NETWORK], 5.0, lambda text: None))


def test_rates_of_weights_are_those_of_a_network_that_has_some():
    pool = parse_network("[net]\nheight=16\nwidth=16\n[maxpool]\nsize=2\nstride=2\n", "pool")

    def measure(networks):
        return run_ranks(2, lambda world: profiling.profile(world, networks, 0.5, lambda t: None))

    for cluster in measure([NETWORK, pool]):
        speed = cluster.devices[0].speed
        assert min(speed.sum, speed.clear, *speed.update.values()) > 0
    with pytest.raises(InputError, match="pool: expected a network with weights to train"):
        measure([pool])


def test_no_time_leaves_a_point_at_least(monkeypatch):
    monkeypatch.setattr(device_speed, "_IMAGES", (1,))
    found = profiling.profile(run_ranks(1, lambda world: world)[0], [NETWORK], 1e-9, lambda t: None)
    assert found.devices[0].speed.kernels
    assert replace(found, devices=()).ranks == 0


def test_the_longest_passes_that_there_is_time_for_are_taken(monkeypatch):
    taken = []

    def time_tile(parameters, plan, images, repeats, pace):
        pace()
        cells = images / plan.grid.tiles
        taken.append(cells)
        # A second for each image, whatever a look at the pace takes.
        return TileTimes({}, Packing(0.0, 0, 0), wall=repeats * cells, cpu=0.0, pace=1.0)

    monkeypatch.setattr(device_speed, "time_tile", time_tile)
    monkeypatch.setattr(device_speed, "time", SimpleNamespace(perf_counter=lambda: 0.0))
    parameters = Parameters(NETWORK, np.float32)
    world = run_ranks(1, lambda world: world)[0]
    found = device_speed._time_tiles(world, parameters, 6.5, inf, Pace())
    assert len(found) == len(taken)
    # Five passes and one before them; not those of four images, of which even a half takes longer.
    assert max(taken) == 1.0
