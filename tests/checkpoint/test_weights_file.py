"""Darknet's ``.weights``: bytes by an independent writer, values by an independent network."""

import struct

import numpy as np
import pytest

from mpitile.checkpoint.weights_file import Header, read_header, read_weights, write_weights
from mpitile.comm.local import run_ranks
from mpitile.comm.topology import make_topology
from mpitile.errors import InputError
from mpitile.geometry.tiling import Grid
from mpitile.layers.base import Step
from mpitile.network.cfg import parse_network
from mpitile.plan.partition import Partition
from mpitile.plan.plan import Plan
from mpitile.runtime.parameters import Parameters
from mpitile.runtime.program import Program

CFG = """
[net]
height=8
width=10
channels=2
[convolutional]
batch_normalize=1
filters=3
size=3
stride=1
pad=1
activation=leaky
[maxpool]
size=2
stride=2
[convolutional]
filters=4
size=1
activation=linear
[connected]
batch_normalize=1
output=5
activation=leaky
[connected]
output=6
activation=linear
[softmax]
"""
# (kind, batch_normalize, outputs, channels, rows, columns), from the cfg above by hand.
LAYERS = [
    ("conv", True, 3, 2, 3, 3),
    ("conv", False, 4, 3, 1, 1),
    ("connected", True, 5, 4, 4, 5),
    ("connected", False, 6, 5, 1, 1),
]
SIZES = [3 * 4 + 54, 4 + 12, 5 * 4 + 400, 6 + 30]
TOTAL = sum(SIZES)
# How many layers a file fills that ends with each of them; a pool has no weights of its own.
FILLED = [2, 3, 4, 6]
NETWORK_LAYERS = (0, 2, 3, 4)


def network():
    return parse_network(CFG, "small.cfg")


def darknet_numbers(seed=0):
    """For each layer its arrays by name, as Darknet holds them."""
    random = np.random.default_rng(seed)
    layers = []
    for kind, normalize, outputs, channels, rows, columns in LAYERS:
        arrays = {"biases": random.normal(size=outputs)}
        if kind == "conv":
            arrays["weights"] = random.normal(size=(outputs, channels, rows, columns))
        else:
            # One row of inputs an output; inputs in the order channel, row, column.
            arrays["weights"] = random.normal(size=(outputs, channels * rows * columns))
        if normalize:
            arrays["scales"] = random.uniform(0.5, 1.5, outputs)
            arrays["rolling_mean"] = random.normal(size=outputs)
            arrays["rolling_variance"] = random.uniform(0.5, 1.5, outputs)
        layers.append({name: array.astype(np.float32) for name, array in arrays.items()})
    return layers


def darknet_bytes(layers, major=0, minor=2, revision=5, seen=1234, wide=True):
    """What Darknet's save_weights writes, layer by layer and number by number."""
    out = struct.pack("<iii", major, minor, revision)
    out += struct.pack("<Q", seen) if wide else struct.pack("<i", seen)
    for (kind, normalize, *_), arrays in zip(LAYERS, layers, strict=False):
        statistics = ["scales", "rolling_mean", "rolling_variance"] if normalize else []
        if kind == "conv":
            order = ["biases", *statistics, "weights"]
        else:
            order = ["biases", "weights", *statistics]
        for name in order:
            for number in arrays[name].ravel():
                out += struct.pack("<f", number)
    return out


def check_values(parameters, layers, count=4):
    """Every number of the first layers stands where the tensor layout wants it."""
    for (kind, _, outputs, channels, rows, columns), index, arrays in list(
        zip(LAYERS, NETWORK_LAYERS, layers, strict=True)
    )[:count]:
        ours = parameters.of_layer(index)
        assert ours.keys() == arrays.keys()
        for name, array in arrays.items():
            if name != "weights":
                np.testing.assert_array_equal(ours[name], array)
                continue
            for o in range(outputs):
                for c in range(channels):
                    for y in range(rows):
                        for x in range(columns):
                            place = (c * rows + y) * columns + x
                            expected = array[o, c, y, x] if kind == "conv" else array[o, place]
                            assert ours[name][y, x, c, o] == expected


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    ("version", "wide"),
    [((0, 1, 0), False), ((0, 2, 0), True), ((0, 2, 5), True), ((1, 0, 0), True)],
)
def test_darknets_bytes_are_read(tmp_path, version, wide, dtype):
    path = tmp_path / "a.weights"
    layers = darknet_numbers()
    path.write_bytes(darknet_bytes(layers, *version, wide=wide))
    assert read_header(path) == Header(*version, 1234, 20 if wide else 16)
    parameters = Parameters(network(), dtype)
    assert read_weights(path, parameters) == (6, 1234)
    check_values(parameters, layers)


def test_darknets_bytes_are_written(tmp_path):
    path, copy = tmp_path / "a.weights", tmp_path / "deep" / "b.weights"
    seen = 2**40 + 3
    path.write_bytes(darknet_bytes(darknet_numbers(), 0, 2, 0, seen))
    for dtype in (np.float32, np.float64):
        parameters = Parameters(network(), dtype)
        read_weights(path, parameters)
        write_weights(copy, parameters, seen)
        assert copy.read_bytes() == path.read_bytes()
    assert len(path.read_bytes()) == 20 + 4 * TOTAL
    assert list(copy.parent.iterdir()) == [copy]


def test_drawn_weights_come_back(tmp_path):
    path = tmp_path / "a.weights"
    one, other = Parameters(network(), np.float32), Parameters(network(), np.float32)
    one.draw(3)
    one.running[:] += np.arange(one.running.size)
    write_weights(path, one, 0)
    read_weights(path, other)
    np.testing.assert_array_equal(one.values, other.values)
    np.testing.assert_array_equal(one.running, other.running)
    assert read_header(path).seen == 0


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_a_backbone_ends_with_any_layer(tmp_path, count):
    path = tmp_path / "backbone.weights"
    layers = darknet_numbers()
    path.write_bytes(darknet_bytes(layers[:count]))
    parameters = Parameters(network(), np.float64)
    parameters.values[:], parameters.running[:] = -7, -7
    assert read_weights(path, parameters, partial=True) == (FILLED[count - 1], 1234)
    check_values(parameters, layers, count)
    for index in NETWORK_LAYERS[count:]:
        assert all((array == -7).all() for array in parameters.of_layer(index).values())


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_backbone_is_refused_where_the_whole_is_wanted(tmp_path, count):
    path = tmp_path / "backbone.weights"
    path.write_bytes(darknet_bytes(darknet_numbers()[:count]))
    with pytest.raises(InputError, match=f"expected {TOTAL} weights for small.cfg"):
        read_weights(path, Parameters(network(), np.float32))


@pytest.mark.parametrize("partial", [False, True])
@pytest.mark.parametrize("change", [4, -4, 1, -1, -3, 4 * SIZES[3], -4 * TOTAL])
def test_wrong_sizes_are_named_and_change_nothing(tmp_path, change, partial):
    path = tmp_path / "a.weights"
    whole = darknet_bytes(darknet_numbers())
    path.write_bytes(whole[: len(whole) + change] if change < 0 else whole + bytes(change))
    parameters = Parameters(network(), np.float32)
    parameters.values[:], parameters.running[:] = 5, 5
    with pytest.raises(InputError) as caught:
        read_weights(path, parameters, partial)
    assert str(caught.value) == (
        f"{path}: expected {TOTAL} weights for small.cfg, that is {20 + 4 * TOTAL} bytes, "
        f"but the file has {20 + 4 * TOTAL + change} bytes"
    )
    assert (parameters.values == 5).all() and (parameters.running == 5).all()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "only 0 bytes"),
        (bytes(15), "only 15 bytes"),
        (struct.pack("<iiiI", 0, 2, 0, 7), "expected a header of 20 bytes, but it has 16"),
    ],
)
def test_short_headers_are_named(tmp_path, content, message):
    path = tmp_path / "a.weights"
    path.write_bytes(content)
    with pytest.raises(InputError, match=rf"a\.weights: .*{message}"):
        read_weights(path, Parameters(network(), np.float32))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"none\.weights: cannot be read: No such file"):
        read_weights(tmp_path / "none.weights", Parameters(network(), np.float32))


def test_both_header_widths_by_version(tmp_path):
    path = tmp_path / "a.weights"
    for version, wide in (((0, 1), False), ((0, 2), True), ((1, 0), True), ((2000, 0), False)):
        path.write_bytes(struct.pack("<iii", *version, 0) + struct.pack("<Q", 2**33 + 9))
        header = read_header(path)
        assert header.size == (20 if wide else 16)
        assert header.seen == (2**33 + 9 if wide else 9)


def torch_outputs(torch, images, layers):
    """The network above with Darknet's arrays as they lie in the file."""
    functional = torch.nn.functional
    arrays = [
        {name: torch.tensor(a, dtype=torch.float64) for name, a in layer.items()}
        for layer in layers
    ]

    def normalized(x, layer):
        return functional.batch_norm(
            x,
            layer["rolling_mean"],
            layer["rolling_variance"],
            layer["scales"],
            layer["biases"],
            eps=1e-5,
        )

    x = torch.tensor(images).permute(0, 3, 1, 2)
    first, second, third, fourth = arrays
    x = functional.conv2d(x, first["weights"].reshape(3, 2, 3, 3), padding=1)
    x = functional.leaky_relu(normalized(x, first), 0.1)
    x = functional.max_pool2d(x, 2)
    x = functional.conv2d(x, second["weights"].reshape(4, 3, 1, 1), second["biases"])
    x = functional.linear(x.flatten(1), third["weights"])
    x = functional.leaky_relu(normalized(x, third), 0.1)
    x = functional.linear(x, fourth["weights"], fourth["biases"])
    return torch.softmax(x, 1).numpy()


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (2, 2)])
def test_a_file_gives_pytorchs_outputs(tmp_path, rows, columns):
    torch = pytest.importorskip("torch")
    path = tmp_path / "a.weights"
    layers = darknet_numbers(4)
    path.write_bytes(darknet_bytes(layers))
    images = np.random.default_rng(1).normal(size=(3, 8, 10, 2))
    plan = Plan(Grid(rows, columns), (0, 3))

    def work(comm):
        topology = make_topology(comm, plan)
        parameters = Parameters(network(), np.float64)
        read_weights(path, parameters)
        program = Program(Partition(network(), plan), topology, parameters, 3, training=False)
        tile = program.values[0]
        tile.array[...] = images[(slice(None), *tile.box.slices())]
        program.forward(Step(training=False, reduce=comm.sum, images=3))
        return program.values[6].view(program.part.owned[6]).copy()

    (output,) = [found for found in run_ranks(plan.ranks, work) if found.size]
    expected = torch_outputs(torch, images, layers)
    np.testing.assert_allclose(output[:, 0, 0], expected, rtol=1e-12)


def test_old_files_hold_connected_weights_inputs_first(tmp_path):
    network = parse_network(
        "[net]\nheight=2\nwidth=3\nchannels=2\n[connected]\noutput=4\nactivation=linear\n", "old"
    )
    written, read = Parameters(network, np.float32), Parameters(network, np.float32)
    written.draw(1)
    path = tmp_path / "new.weights"
    write_weights(path, written, 0)
    numbers = np.frombuffer(path.read_bytes()[20:], "<f4").copy()
    numbers[4:] = numbers[4:].reshape(4, 12).T.ravel()
    old = tmp_path / "old.weights"
    old.write_bytes(struct.pack("<4i", 1001, 0, 0, 0) + numbers.tobytes())
    read_weights(old, read)
    assert np.array_equal(read.values, written.values)


def test_a_file_that_cannot_be_written_is_named(tmp_path):
    network = parse_network("[net]\nheight=2\nwidth=2\n[convolutional]\n", "small")
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"final\.weights: cannot be written"):
        write_weights(tmp_path / "file" / "final.weights", Parameters(network, np.float32), 0)


GROUPED = """
[net]
height=6
width=6
channels=4
[convolutional]
filters=6
size=3
groups=2
activation=linear
[convolutional]
batch_normalize=1
filters=6
size=2
groups=6
activation=mish
"""


def test_groups_stand_filter_by_filter(tmp_path):
    """Darknet's weights are (filters, channels of a group, rows, columns)."""
    grouped = parse_network(GROUPED, "grouped.cfg")
    counts = [(6, 6 * 2 * 3 * 3), (6 * 4, 6 * 1 * 2 * 2)]
    total = sum(sum(pair) for pair in counts)
    numbers = np.arange(total, dtype=np.float32)
    path = tmp_path / "grouped.weights"
    path.write_bytes(struct.pack("<iiiQ", 0, 2, 0, 7) + numbers.tobytes())
    parameters = Parameters(grouped, np.float64)
    assert read_weights(path, parameters) == (2, 7)
    at = 0
    for layer, (before, weights) in enumerate(counts):
        at += before
        found = parameters.of_layer(layer)["weights"]
        rows, columns, channels, filters = found.shape
        for k, c, y, x in np.ndindex(filters, channels, rows, columns):
            assert found[y, x, c, k] == at + ((k * channels + c) * rows + y) * columns + x
        at += weights
    again = tmp_path / "again.weights"
    write_weights(again, parameters, 7)
    assert again.read_bytes() == path.read_bytes()
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(InputError, match=f"expected {total} weights for grouped.cfg"):
        read_weights(path, parameters)
