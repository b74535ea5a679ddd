import math

import numpy as np
import pytest
from region_oracle import region_oracle

ANCHORS = [(1.3, 1.7), (3.2, 2.1)]
CLASSES = 3
ENTRIES = 5 + CLASSES
SCALES = {
    "object_scale": 5.0,
    "noobject_scale": 0.7,
    "class_scale": 1.5,
    "coord_scale": 1.2,
}
SETTINGS = {
    "anchors": ANCHORS,
    "classes": CLASSES,
    "softmax": True,
    "bias_match": True,
    "rescore": False,
    "thresh": 0.6,
    "seen": 20000,
    **SCALES,
}
TRUTHS = [
    np.array([[0.31, 0.22, 0.30, 0.41, 2.0], [0.77, 0.81, 0.80, 0.40, 0.0]]),
    np.array([[0.55, 0.49, 0.25, 0.33, 1.0]]),
]


def random_outputs(seed=0, images=2):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(images, 4, 5, len(ANCHORS) * ENTRIES))


def run(outputs, truths, **changes):
    return region_oracle(outputs, truths, **{**SETTINGS, **changes})


def split(array):
    return array.reshape(*array.shape[:3], len(ANCHORS), ENTRIES)


def logit(p):
    return math.log(p / (1 - p))


def perfect(truth, height=4, width=5):
    """Outputs whose box of the truth's best anchor (the first one) equals the truth."""
    outputs = random_outputs(images=1)
    column, row = int(truth[0] * width), int(truth[1] * height)
    cell = split(outputs)[0, row, column, 0]
    cell[0] = logit(truth[0] * width - column)
    cell[1] = logit(truth[1] * height - row)
    cell[2] = math.log(truth[2] * width / ANCHORS[0][0])
    cell[3] = math.log(truth[3] * height / ANCHORS[0][1])
    return outputs, (0, row, column, 0)


def test_one_cell_by_hand():
    # One cell, one anchor of the whole cell, one class; all outputs zero. The box is
    # (0.5, 0.5, 1, 1), the truth (0.75, 0.5, 0.5, 1) lies in it with IoU 0.5.
    cost, gradient = region_oracle(
        np.zeros((1, 1, 1, 6)),
        [np.array([[0.75, 0.5, 0.5, 1.0, 0.0]])],
        anchors=[(1.0, 1.0)],
        classes=1,
        softmax=False,
        bias_match=True,
        rescore=True,
        thresh=0.6,
        object_scale=5.0,
        noobject_scale=1.0,
        class_scale=1.0,
        coord_scale=2.0,
        seen=20000,
    )
    deltas = [3 * 0.25, 0, 3 * math.log(0.5), 0, 5 * (0.5 - 0.5), 0.5]
    assert cost == pytest.approx(sum(value * value for value in deltas))
    expected = [-0.25 * deltas[0], 0, -deltas[2], 0, 0, -deltas[5]]
    np.testing.assert_allclose(gradient.ravel(), expected, atol=1e-15)


@pytest.mark.parametrize("ended", [False, True])
def test_no_truths_only_push_objectness_down(ended):
    outputs = random_outputs()
    nothing = np.array([[0.0, 0.5, 0.2, 0.2, 1.0], [0.5, 0.5, 0.2, 0.2, 1.0]])
    cost, gradient = run(outputs, [nothing if ended else np.empty((0, 5))] * 2)
    objectness = 1 / (1 + np.exp(-split(outputs)[..., 4]))
    expected = np.zeros_like(split(outputs))
    expected[..., 4] = 0.7 * objectness**2 * (1 - objectness)
    np.testing.assert_allclose(split(gradient), expected, rtol=1e-13)
    assert cost == pytest.approx(((0.7 * objectness) ** 2).sum())


def test_the_pull_ends_with_12800_images():
    outputs = random_outputs(images=1)
    before = split(run(outputs, [np.empty((0, 5))], seen=12799)[1])
    after = split(run(outputs, [np.empty((0, 5))], seen=12800)[1])
    raw = split(outputs)
    np.testing.assert_allclose(before[..., 2:4], 0.01 * raw[..., 2:4], rtol=1e-13)
    # The pull is towards the cell's centre: x and y move the raw output towards 0.
    assert (np.sign(before[..., :2]) == np.sign(raw[..., :2])).all()
    assert (after[..., :4] == 0).all()
    np.testing.assert_array_equal(before[..., 4:], after[..., 4:])


def test_a_perfect_box_has_no_coordinate_gradient():
    truth = np.array([0.31, 0.22, 0.30, 0.41, 2.0])
    outputs, place = perfect(truth)
    gradient = split(run(outputs, [truth[None]])[1])
    np.testing.assert_allclose(gradient[place][:4], 0, atol=1e-14)
    assert gradient[place][4] < 0
    assert gradient[place][5 + 2] < 0 < gradient[place][5]


def test_rescore_aims_at_the_iou():
    truth = np.array([0.31, 0.22, 0.30, 0.41, 2.0])
    outputs, place = perfect(truth)
    split(outputs)[place][2] += math.log(2)
    half = 1 / (1 + math.exp(-split(outputs)[place][4]))
    gradient = split(run(outputs, [truth[None]], rescore=True)[1])
    assert gradient[place][4] == pytest.approx(-5 * (0.5 - half) * half * (1 - half))


def test_good_boxes_of_other_truths_are_not_pushed_down():
    # The truth lies in the next cell and is matched there, but the box here overlaps it well.
    truth = np.array([0.399, 0.22, 0.30, 0.41, 2.0])
    outputs, place = perfect(truth)
    moved = truth + np.array([0.002, 0, 0, 0, 0])
    gradient = split(run(outputs, [moved[None]])[1])
    assert gradient[place][4] == 0
    assert split(run(outputs, [moved[None]], thresh=1.0)[1])[place][4] > 0


def test_bias_match_chooses_by_anchor_else_by_prediction():
    outputs = np.zeros((1, 4, 5, len(ANCHORS) * ENTRIES))
    truth = np.array([0.5, 0.5, ANCHORS[0][0] / 5, ANCHORS[0][1] / 4, 1.0])
    cell = split(outputs)[0, 2, 2]
    cell[0, 2:4] = 1.0
    cell[1, 2:4] = np.log(np.divide(ANCHORS[0], ANCHORS[1]))
    for flag, anchor in ((True, 0), (False, 1)):
        classes = split(run(outputs, [truth[None]], bias_match=flag)[1])[0, 2, 2, :, 5:]
        assert classes[anchor].any() and not classes[1 - anchor].any()


def test_a_later_truth_overwrites_an_earlier_one_of_the_same_box():
    outputs = random_outputs(images=1)
    first = np.array([0.31, 0.22, 0.30, 0.41, 2.0])
    second = np.array([0.32, 0.24, 0.28, 0.43, 1.0])
    both = split(run(outputs, [np.stack([first, second])], thresh=1.0)[1])
    alone = split(run(outputs, [second[None]], thresh=1.0)[1])
    np.testing.assert_array_equal(both, alone)


def test_images_do_not_meet():
    outputs = random_outputs()
    cost, gradient = run(outputs, TRUTHS)
    parts = [run(outputs[k : k + 1], TRUTHS[k : k + 1]) for k in range(2)]
    assert cost == pytest.approx(parts[0][0] + parts[1][0], rel=1e-14)
    np.testing.assert_array_equal(gradient, np.concatenate([part[1] for part in parts]))


def test_a_truth_outside_the_grid_is_refused():
    with pytest.raises(ValueError, match="outside the 4x5 grid"):
        run(random_outputs(images=1), [np.array([[1.0, 0.5, 0.1, 0.1, 0.0]])])


def explicit_loss(torch, raw, softmax, seen):
    """The loss whose gradient the deltas are, where no IoU enters (thresh 1, no rescore)."""
    functional = torch.nn.functional
    height, width = raw.shape[1:3]
    free = torch.ones(raw.shape[:4], dtype=torch.bool)
    loss = raw.new_zeros(())
    for b, truths in enumerate(TRUTHS):
        for x, y, w, h, label in truths:
            column, row = int(x * width), int(y * height)
            shared = [min(w * width, aw) * min(h * height, ah) for aw, ah in ANCHORS]
            joint = [
                common / (w * width * h * height + aw * ah - common)
                for common, (aw, ah) in zip(shared, ANCHORS, strict=True)
            ]
            n = int(np.argmax(joint))
            free[b, row, column, n] = False
            cell = raw[b, row, column, n]
            target = torch.tensor(
                [
                    x * width - column,
                    y * height - row,
                    math.log(w * width / ANCHORS[n][0]),
                    math.log(h * height / ANCHORS[n][1]),
                ],
                dtype=raw.dtype,
            )
            values = torch.cat([torch.sigmoid(cell[:2]), cell[2:4]])
            scale = SCALES["coord_scale"] * (2 - w * h)
            loss = loss + 0.5 * scale * ((target - values) ** 2).sum()
            loss = loss + 0.5 * SCALES["object_scale"] * (1 - torch.sigmoid(cell[4])) ** 2
            if softmax:
                entropy = functional.cross_entropy(cell[None, 5:], torch.tensor([int(label)]))
            else:
                one_hot = functional.one_hot(torch.tensor(int(label)), CLASSES).to(raw.dtype)
                entropy = functional.binary_cross_entropy_with_logits(
                    cell[5:], one_hot, reduction="sum"
                )
            loss = loss + SCALES["class_scale"] * entropy
    others = raw[free]
    loss = loss + 0.5 * SCALES["noobject_scale"] * (torch.sigmoid(others[:, 4]) ** 2).sum()
    if seen < 12800:
        pull = ((torch.sigmoid(others[:, :2]) - 0.5) ** 2).sum() + (others[:, 2:4] ** 2).sum()
        loss = loss + 0.5 * 0.01 * pull
    return loss


@pytest.mark.parametrize("softmax", [True, False])
@pytest.mark.parametrize("seen", [0, 20000])
def test_gradient_is_that_of_the_explicit_loss(softmax, seen):
    torch = pytest.importorskip("torch")
    outputs = random_outputs(3)
    raw = torch.tensor(split(outputs), requires_grad=True)
    explicit_loss(torch, raw, softmax, seen).backward()
    gradient = run(outputs, TRUTHS, softmax=softmax, seen=seen, thresh=1.0)[1]
    np.testing.assert_allclose(split(gradient), raw.grad.numpy(), rtol=1e-11, atol=1e-13)
