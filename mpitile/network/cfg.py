"""Networks in Darknet's cfg language.

Keys, defaults and their meaning follow Darknet's ``parser.c``. What Darknet
accepts and ignores silently (misspelt keys, values that are no numbers) is an
error here, and so is whatever it knows but mpitile does not compute.
"""

from __future__ import annotations

from pathlib import Path

from mpitile.errors import InputError
from mpitile.network.cfg_text import (
    ABOVE_0,
    AT_LEAST_0,
    AT_LEAST_1,
    BELOW_1,
    BELOW_HALF,
    UP_TO_1,
    Section,
    split_sections,
)
from mpitile.network.cfg_words import (
    ALIASES,
    FIXED_KEYS,
    IGNORED_KEYS,
    KEYS,
    POLICIES,
    UNSUPPORTED_ACTIVATIONS,
    UNSUPPORTED_COSTS,
    UNSUPPORTED_POLICIES,
    UNSUPPORTED_SECTIONS,
)
from mpitile.network.shapes import infer
from mpitile.network.spec import (
    ACTIVATIONS,
    AvgPool,
    Connected,
    Convolutional,
    Cost,
    Dropout,
    MaxPool,
    NetOptions,
    Network,
    Operation,
    Region,
    Reorg,
    Route,
    Shortcut,
    Softmax,
    Upsample,
    Yolo,
)


def read_network(path: str | Path) -> Network:
    """The network that a cfg file describes.

    Raises
    ------
    InputError
        With file and line, where the file cannot be read, is malformed, holds
        something unknown or unsupported, or describes layers that do not fit.
    """
    try:
        # A comment may be in any encoding; keys and values are ASCII.
        text = Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise InputError(
            f"{path}: expected a readable cfg file, found: {error.strerror}"
        ) from error
    return parse_network(text, str(path))


def parse_network(text: str, name: str) -> Network:
    """The network that the text of a cfg file describes; `name` stands in errors."""
    sections = split_sections(text, name)
    if not sections:
        raise InputError(f"{name}:1: expected the section [net], found no section")
    first, *rest = sections
    if _kind(first) != "net":
        first.fail(f"expected [net] as the first section, found [{first.name}]")
    options = _net(first)
    operations = [(s.line, _operation(s, index)) for index, s in enumerate(rest)]
    return infer(options, operations, name)


def _kind(section: Section) -> str:
    """The section's full name, its keys checked."""
    kind = ALIASES.get(section.name, section.name)
    if kind in UNSUPPORTED_SECTIONS:
        section.fail(f"[{section.name}] is not supported yet")
    if kind not in KEYS:
        known = ", ".join(f"[{known}]" for known in KEYS)
        section.fail(f"unknown section [{section.name}]; known are {known}")
    ignored = IGNORED_KEYS.get(kind, frozenset())
    section.check_keys(KEYS[kind] | ignored, FIXED_KEYS.get(kind, {}))
    for key in ignored & section.entries.keys():
        section.number(key, None)
    return kind


def _operation(section: Section, index: int) -> Operation:
    kind = _kind(section)
    if kind == "net":
        section.fail(f"expected a layer, found a second [{section.name}]")
    if kind == "route":
        return Route(
            tuple(
                _absolute(section, "layers", layer, index) for layer in section.integers("layers")
            )
        )
    if kind == "shortcut":
        source = _absolute(section, "from", section.integer("from", None), index)
        return Shortcut(source, _activation(section, "linear"))
    return _BUILDERS[kind](section)


def _absolute(section: Section, key: str, layer: int, index: int) -> int:
    """A layer's number from one that counts back from `index` where it is negative."""
    absolute = index + layer if layer < 0 else layer
    if not 0 <= absolute < index:
        section.fail(
            f"{key}: expected an earlier layer (this one is number {index}), found {layer}", key
        )
    return absolute


def _activation(section: Section, default: str) -> str:
    return section.choice("activation", default, ACTIVATIONS, UNSUPPORTED_ACTIVATIONS)


def _net(section: Section) -> NetOptions:
    batch = section.integer("batch", 1, AT_LEAST_1)
    subdivisions = section.integer("subdivisions", 1, AT_LEAST_1)
    if batch % subdivisions:
        section.fail(
            f"subdivisions: expected a divisor of batch={batch}, found {subdivisions}",
            "subdivisions",
        )
    options = NetOptions(
        height=section.integer("height", None, AT_LEAST_1),
        width=section.integer("width", None, AT_LEAST_1),
        channels=section.integer("channels", 3, AT_LEAST_1),
        batch=batch,
        subdivisions=subdivisions,
        learning_rate=section.number("learning_rate", 0.001, AT_LEAST_0),
        policy=POLICIES[section.choice("policy", "constant", POLICIES, UNSUPPORTED_POLICIES)],
        burn_in=section.integer("burn_in", 0, AT_LEAST_0),
        power=section.number("power", 4.0, AT_LEAST_0),
        max_batches=section.integer("max_batches", 0, AT_LEAST_0),
        # Darknet's older files begin with steps=-1: a scale from the start on.
        steps=section.integers("steps") if "steps" in section.entries else (),
        scales=section.numbers("scales", AT_LEAST_0) if "scales" in section.entries else (),
        step=section.integer("step", 1, AT_LEAST_1),
        scale=section.number("scale", 1.0, AT_LEAST_0),
        gamma=section.number("gamma", 1.0),
        momentum=section.number("momentum", 0.9, BELOW_1),
        decay=section.number("decay", 0.0001, AT_LEAST_0),
        adam=section.flag("adam", False),
        beta1=section.number("B1", 0.9, BELOW_1),
        beta2=section.number("B2", 0.999, BELOW_1),
        epsilon=section.number("eps", 1e-7, ABOVE_0),
        hue=section.number("hue", 0.0, UP_TO_1),
        saturation=section.number("saturation", 1.0, ABOVE_0),
        exposure=section.number("exposure", 1.0, ABOVE_0),
        flip=section.flag("flip", True),
    )
    _check_policy(section, options)
    return options


def _check_policy(section: Section, options: NetOptions) -> None:
    if options.policy == "poly" and not options.max_batches:
        section.fail("policy=poly: expected max_batches >= 1, found none", "policy")
    if options.policy == "steps":
        if not options.steps:
            section.fail("policy=steps: expected the keys steps and scales", "policy")
        if len(options.steps) != len(options.scales):
            section.fail(
                f"scales: expected {len(options.steps)} numbers, one for each of steps, "
                f"found {len(options.scales)}",
                "scales",
            )


def _convolutional(section: Section) -> Convolutional:
    size = section.integer("size", 1, AT_LEAST_1)
    padding = section.integer("padding", 0, AT_LEAST_0)
    return Convolutional(
        filters=section.integer("filters", 1, AT_LEAST_1),
        size=size,
        stride=section.integer("stride", 1, AT_LEAST_1),
        padding=size // 2 if section.flag("pad", False) else padding,
        activation=_activation(section, "logistic"),
        batch_normalize=section.flag("batch_normalize", False),
        groups=section.integer("groups", 1, AT_LEAST_1),
    )


def _connected(section: Section) -> Connected:
    return Connected(
        outputs=section.integer("output", 1, AT_LEAST_1),
        activation=_activation(section, "logistic"),
        batch_normalize=section.flag("batch_normalize", False),
    )


def _maxpool(section: Section) -> MaxPool:
    stride = section.integer("stride", 1, AT_LEAST_1)
    size = section.integer("size", stride, AT_LEAST_1)
    return MaxPool(size, stride, section.integer("padding", size - 1, AT_LEAST_0))


def _cost(section: Section) -> Cost:
    section.choice("type", "sse", ("sse",), UNSUPPORTED_COSTS)
    return Cost()


def _anchors(section: Section) -> tuple[tuple[float, float], ...]:
    """As many pairs as ``num`` says."""
    count = section.integer("num", 1, AT_LEAST_1)
    values = section.numbers("anchors", ABOVE_0)
    if len(values) != 2 * count:
        section.fail(
            f"anchors: expected {2 * count} numbers (num={count} pairs), found {len(values)}",
            "anchors",
        )
    return tuple(zip(values[::2], values[1::2], strict=True))


def _region(section: Section) -> Region:
    return Region(
        anchors=_anchors(section),
        classes=section.integer("classes", 20, AT_LEAST_1),
        softmax=section.flag("softmax", False),
        bias_match=section.flag("bias_match", False),
        rescore=section.flag("rescore", False),
        thresh=section.number("thresh", 0.5, AT_LEAST_0),
        object_scale=section.number("object_scale", 1.0, AT_LEAST_0),
        noobject_scale=section.number("noobject_scale", 1.0, AT_LEAST_0),
        class_scale=section.number("class_scale", 1.0, AT_LEAST_0),
        coord_scale=section.number("coord_scale", 1.0, AT_LEAST_0),
        max_boxes=section.integer("max", 0, AT_LEAST_0),
        jitter=section.number("jitter", 0.2, BELOW_HALF),
        random=section.flag("random", False),
    )


def _yolo(section: Section) -> Yolo:
    anchors = _anchors(section)
    mask = tuple(range(len(anchors)))
    if "mask" in section.entries:
        mask = section.integers("mask", AT_LEAST_0)
    for number in mask:
        if number >= len(anchors):
            section.fail(
                f"mask: expected numbers of anchors from 0 to {len(anchors) - 1}, found {number}",
                "mask",
            )
    if len(set(mask)) != len(mask):
        section.fail("mask: expected each anchor once, found one again", "mask")
    return Yolo(
        anchors=anchors,
        mask=mask,
        classes=section.integer("classes", 20, AT_LEAST_1),
        ignore_thresh=section.number("ignore_thresh", 0.5, AT_LEAST_0),
        truth_thresh=section.number("truth_thresh", 1.0, AT_LEAST_0),
        scale_x_y=section.number("scale_x_y", 1.0, AT_LEAST_1),
        max_boxes=section.integer("max", 0, AT_LEAST_0),
        jitter=section.number("jitter", 0.2, BELOW_HALF),
        random=section.flag("random", False),
    )


_BUILDERS = {
    "convolutional": _convolutional,
    "connected": _connected,
    "maxpool": _maxpool,
    "avgpool": lambda section: AvgPool(),
    "reorg": lambda section: Reorg(section.integer("stride", 1, AT_LEAST_1)),
    "upsample": lambda section: Upsample(
        section.integer("stride", 2, AT_LEAST_1), section.number("scale", 1.0)
    ),
    "dropout": lambda section: Dropout(section.number("probability", 0.5, BELOW_1)),
    "softmax": lambda section: Softmax(),
    "cost": _cost,
    "region": _region,
    "yolo": _yolo,
}
