"""Names, shapes and roles of a network's arrays."""

from mpitile.network.parameters import ParameterSpec, layer_parameters, parameter_specs
from mpitile.network.shapes import infer
from mpitile.network.spec import Connected, Convolutional, MaxPool, NetOptions


def test_convolution_with_biases():
    network = infer(NetOptions(8, 8, 3), [(1, Convolutional(4, 5, padding=2))], "n")
    assert parameter_specs(network) == (
        ParameterSpec(0, "weights", (5, 5, 3, 4), True, True, 75),
        ParameterSpec(0, "biases", (4,), True, False, 75),
    )


def test_groups_see_their_own_channels():
    operation = Convolutional(8, 3, groups=4)
    network = infer(NetOptions(8, 8, 12), [(1, operation)], "n")
    weights, biases = parameter_specs(network)
    assert weights == ParameterSpec(0, "weights", (3, 3, 3, 8), True, True, 27, 4)
    assert biases == ParameterSpec(0, "biases", (8,), True, False, 27, 4)


def test_batch_norm_adds_scales_and_running_statistics():
    operation = Convolutional(4, 3, batch_normalize=True)
    specs = parameter_specs(infer(NetOptions(8, 8, 2), [(1, operation)], "n"))
    assert [(s.name, s.shape, s.trained, s.decays, s.fan_in) for s in specs] == [
        ("weights", (3, 3, 2, 4), True, True, 18),
        ("biases", (4,), True, False, 18),
        ("scales", (4,), True, False, 18),
        ("rolling_mean", (4,), False, False, 18),
        ("rolling_variance", (4,), False, False, 18),
    ]


def test_connected_is_a_kernel_over_the_whole_input():
    network = infer(NetOptions(8, 6, 3), [(1, MaxPool(2, 2, 1)), (2, Connected(10))], "n")
    weights, biases = parameter_specs(network)
    assert weights == ParameterSpec(1, "weights", (4, 3, 3, 10), True, True, 36)
    assert biases == ParameterSpec(1, "biases", (10,), True, False, 36)
    assert layer_parameters(network.layers[0]) == ()
