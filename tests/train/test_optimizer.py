"""SGD and Adam against PyTorch and against loops over single numbers."""

import math

import numpy as np
import pytest

from mpitile.network.cfg import parse_network
from mpitile.network.spec import NetOptions
from mpitile.runtime.parameters import Parameters
from mpitile.train import optimizer as module
from mpitile.train.optimizer import make_optimizer

CFG = """
[net]
height=6
width=6
[convolutional]
batch_normalize=1
filters=3
size=3
[convolutional]
filters=2
size=1
[connected]
output=4
"""
IMAGES = 5
RATES = [0.1, 0.05, 0.2, 0.2]
OPTIONS = NetOptions(6, 6, momentum=0.8, decay=0.03, beta1=0.7, beta2=0.95, epsilon=1e-3)


def fresh(dtype=np.float64, seed=0):
    parameters = Parameters(parse_network(CFG, "small"), dtype)
    random = np.random.default_rng(seed)
    parameters.values[:] = random.normal(size=parameters.values.size)
    return parameters


def gradients(parameters, number):
    random = np.random.default_rng([7, number])
    return random.normal(size=parameters.values.size).astype(parameters.values.dtype)


def run(kind, parameters, options=OPTIONS, rates=RATES):
    optimizer = make_optimizer(kind, parameters, options)
    for number, rate in enumerate(rates):
        parameters.gradients[:] = gradients(parameters, number)
        optimizer.update(rate, IMAGES, number + 1)
    return optimizer


def weight_places(parameters):
    """Which entries of the flat array are weights, found by writing to their views."""
    values = parameters.values.copy()
    parameters.values[:] = 0
    for spec in parameters.specs:
        if spec.name == "weights":
            parameters.view(spec)[...] = 1
    places = parameters.values == 1
    parameters.values[:] = values
    return places


def sgd_by_loop(parameters):
    weights = weight_places(parameters)
    values, velocity = parameters.values.tolist(), [0.0] * parameters.values.size
    for number, rate in enumerate(RATES):
        given = gradients(parameters, number)
        for k, w in enumerate(values):
            decay = OPTIONS.decay * w if weights[k] else 0.0
            velocity[k] = OPTIONS.momentum * velocity[k] + given[k] / IMAGES + decay
            values[k] = w - rate * velocity[k]
    return values


def adam_by_loop(parameters):
    """Darknet's adam_kernel, its update being minus the gradient."""
    weights = weight_places(parameters)
    size = parameters.values.size
    values, m, v = parameters.values.tolist(), [0.0] * size, [0.0] * size
    b1, b2 = OPTIONS.beta1, OPTIONS.beta2
    for number, rate in enumerate(RATES):
        given, t = gradients(parameters, number), number + 1
        for k, w in enumerate(values):
            d = -given[k] / IMAGES - (OPTIONS.decay * w if weights[k] else 0.0)
            m[k] = b1 * m[k] + (1 - b1) * d
            v[k] = b2 * v[k] + (1 - b2) * d * d
            scale = rate * math.sqrt(1 - b2**t) / (1 - b1**t)
            values[k] = w + scale * m[k] / (math.sqrt(v[k]) + OPTIONS.epsilon)
    return values


@pytest.mark.parametrize(("kind", "loop"), [("sgd", sgd_by_loop), ("adam", adam_by_loop)])
def test_equals_a_loop_over_numbers(kind, loop):
    parameters = fresh()
    expected = loop(parameters)
    run(kind, parameters)
    np.testing.assert_allclose(parameters.values, expected, rtol=1e-12)


def as_torch(torch, parameters):
    """All arrays as tensors: weights, which decay, and others."""
    tensors = {
        (spec.layer, spec.name): torch.tensor(parameters.view(spec).copy())
        for spec in parameters.specs
        if spec.trained
    }
    decaying = [tensor for (_, name), tensor in tensors.items() if name == "weights"]
    others = [tensor for (_, name), tensor in tensors.items() if name != "weights"]
    groups = [
        {"params": decaying, "weight_decay": OPTIONS.decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return tensors, groups


def torch_steps(torch, parameters, tensors, optimizer, prepare):
    for number, rate in enumerate(RATES):
        parameters.gradients[:] = gradients(parameters, number)
        for (layer, name), tensor in tensors.items():
            tensor.grad = torch.tensor(parameters.gradients_of(layer)[name] / IMAGES)
        for group in optimizer.param_groups:
            group["lr"] = rate
            prepare(group, number + 1)
        optimizer.step()


def check_same(parameters, tensors):
    for spec in parameters.specs:
        if spec.trained:
            expected = tensors[spec.layer, spec.name].numpy()
            np.testing.assert_allclose(parameters.view(spec), expected, rtol=1e-12)


def test_sgd_is_pytorchs():
    torch = pytest.importorskip("torch")
    parameters = fresh()
    tensors, groups = as_torch(torch, parameters)
    optimizer = torch.optim.SGD(groups, lr=1.0, momentum=OPTIONS.momentum)
    torch_steps(torch, parameters, tensors, optimizer, lambda group, step: None)
    run("sgd", parameters)
    check_same(parameters, tensors)


def test_adam_is_pytorchs_but_for_the_place_of_epsilon():
    torch = pytest.importorskip("torch")
    parameters = fresh()
    tensors, groups = as_torch(torch, parameters)
    optimizer = torch.optim.Adam(groups, lr=1.0, betas=(OPTIONS.beta1, OPTIONS.beta2))

    def prepare(group, step):
        # PyTorch adds it to the corrected root, Darknet to the root before correction.
        group["eps"] = OPTIONS.epsilon / math.sqrt(1 - OPTIONS.beta2**step)

    torch_steps(torch, parameters, tensors, optimizer, prepare)
    run("adam", parameters)
    check_same(parameters, tensors)


@pytest.mark.parametrize("kind", ["sgd", "adam"])
def test_decay_is_for_weights_alone(kind):
    parameters = fresh()
    before = parameters.values.copy()
    optimizer = make_optimizer(kind, parameters, OPTIONS)
    parameters.gradients[:] = 0
    optimizer.update(0.1, IMAGES, 1)
    changed = parameters.values != before
    np.testing.assert_array_equal(changed, weight_places(parameters))
    assert changed.sum() == parameters.decaying < changed.size


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("kind", ["sgd", "adam"])
def test_blocks_change_nothing(kind, dtype, monkeypatch):
    whole = fresh(dtype)
    run(kind, whole)
    size, decaying = whole.values.size, whole.decaying
    for block in (1, 7, decaying - 1, decaying, decaying + 1, size - 1, size, size + 1):
        monkeypatch.setattr(module, "_BLOCK", block)
        parts = fresh(dtype)
        run(kind, parts)
        np.testing.assert_array_equal(parts.values, whole.values, err_msg=f"blocks of {block}")


def test_more_than_one_block_of_the_real_length():
    cfg = "[net]\nheight=9\nwidth=9\nchannels=32\n[convolutional]\nfilters=114\nsize=3\n"
    parameters = Parameters(parse_network(cfg, "large"), np.float64)
    assert parameters.decaying > module._BLOCK
    random = np.random.default_rng(1)
    start = random.normal(size=parameters.values.size)
    parameters.values[:] = start
    parameters.gradients[:] = random.normal(size=start.size)
    decay = np.where(weight_places(parameters), OPTIONS.decay, 0)
    make_optimizer("sgd", parameters, OPTIONS).update(0.5, IMAGES, 1)
    expected = start - 0.5 * (parameters.gradients / IMAGES + decay * start)
    np.testing.assert_allclose(parameters.values, expected, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("kind", ["sgd", "adam"])
def test_all_arrays_change_in_place(kind, dtype):
    parameters = fresh(dtype)
    optimizer = make_optimizer(kind, parameters, OPTIONS)
    values, state = parameters.values, dict(optimizer.state)
    first = parameters.of_layer(0)["weights"]
    start = first.copy()
    parameters.gradients[:] = gradients(parameters, 0)
    for step in (1, 2):
        optimizer.update(0.1, IMAGES, step)
    assert parameters.values is values and values.dtype == dtype
    for name, array in optimizer.state.items():
        assert array is state[name]
        assert array.dtype == dtype and array.shape == values.shape and array.any()
    assert (first != start).any()
    np.testing.assert_array_equal(parameters.gradients, gradients(parameters, 0))


@pytest.mark.parametrize("kind", ["sgd", "adam"])
def test_the_state_is_all_that_a_resumed_run_needs(kind):
    through = fresh()
    run(kind, through)
    stopped = fresh()
    first = run(kind, stopped, rates=RATES[:2])
    resumed = fresh(seed=9)
    second = make_optimizer(kind, resumed, OPTIONS)
    resumed.values[:] = stopped.values
    for name, array in first.state.items():
        second.state[name][:] = array
    for number in (2, 3):
        resumed.gradients[:] = gradients(resumed, number)
        second.update(RATES[number], IMAGES, number + 1)
    np.testing.assert_array_equal(resumed.values, through.values)
