"""Small image folders, and run files for them, for tests of training in one process."""

import numpy as np
from PIL import Image
from runs import write_run

from mpitile.train.settings import read_settings

NET = """\
[net]
height={height}
width={width}
channels=3
batch=4
momentum=0.9
decay=0.0005
learning_rate=0.01
"""

CONVOLUTION = """
[convolutional]
batch_normalize={normalize}
filters={filters}
size=3
stride={stride}
pad=1
activation=leaky
"""

POOL = """
[maxpool]
size=2
stride=2
"""

DROPOUT = """
[dropout]
probability=0.4
"""

HEAD = """
[convolutional]
filters={filters}
size=1
activation=linear
"""

REGION = """
[region]
anchors=1.1,1.4, 2.3,1.9
num=2
classes=2
softmax=1
bias_match=1
rescore=1
thresh=0.6
object_scale=5
jitter=0.1
random={random}
"""


def detector(height=32, width=32, normalize=0, random=0, dropout=""):
    """A cfg of two convolutions and two pools: a cell of its region layer is 4x4 pixels."""
    body = POOL.join(
        CONVOLUTION.format(normalize=normalize, filters=filters, stride=1) for filters in (4, 6)
    )
    net = NET.format(height=height, width=width)
    return net + body + POOL + dropout + HEAD.format(filters=14) + REGION.format(random=random)


def classifier(classes, height=20, width=20, dropout=""):
    """A cfg that ends with average pooling and softmax."""
    body = CONVOLUTION.format(normalize=0, filters=5, stride=2)
    end = HEAD.format(filters=classes) + "\n[avgpool]\n\n[softmax]\n"
    return NET.format(height=height, width=width) + body + dropout + end


def noise_image(path, width, height, random):
    path.parent.mkdir(parents=True, exist_ok=True)
    # Images of different colours, else averages over them would hardly differ.
    tint = random.uniform(0, 1, 3)
    pixels = random.integers(0, 256, (height, width, 3)) * tint
    Image.fromarray(pixels.astype(np.uint8)).save(path)


def box_images(folder, count, size=(32, 32), seed=0):
    """A YOLO data set of noise; image n has n modulo 4 boxes of two classes."""
    random = np.random.default_rng(seed)
    height, width = size
    (folder / "labels").mkdir(parents=True, exist_ok=True)
    for number in range(count):
        noise_image(folder / "images" / f"{number:02d}.png", width, height, random)
        boxes = [
            (random.integers(2), *random.uniform(0.1, 0.9, 2), *random.uniform(0.1, 0.5, 2))
            for _ in range(number % 4)
        ]
        lines = [" ".join(str(value) for value in box) for box in boxes]
        (folder / "labels" / f"{number:02d}.txt").write_text("\n".join(lines))
    return folder


def class_images(folder, classes, each, size=(20, 20), seed=0):
    """A folder of noise images for each class."""
    random = np.random.default_rng(seed)
    for label in range(classes):
        for number in range(each):
            path = folder / f"class{label}" / f"{number}.png"
            noise_image(path, size[1], size[0], random)
    return folder


def small_settings(folder, cfg, data, /, **sections):
    """`RunSettings` of a run in `folder`; `sections` replace or add keys."""
    detects = "[region]" in cfg
    table = {
        "network": {"cfg": "net.cfg"},
        "data": {
            "format": "yolo" if detects else "folders",
            "root": str(data),
            "shuffle": False,
            "augment": False,
        },
        "train": {"steps": 3, "batch": 4, "dtype": "float64", "seed": 2},
        "output": {"dir": str(folder / "out")},
    }
    if detects:
        table["data"]["names"] = ["disc", "square"]
    for section, values in sections.items():
        table.setdefault(section, {}).update(values)
    return read_settings(write_run(folder, table, cfg))
