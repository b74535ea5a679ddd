"""Darknet's words: which sections and keys mpitile reads, refuses or drops."""

from __future__ import annotations

ALIASES = {
    "network": "net",
    "conv": "convolutional",
    "conn": "connected",
    "max": "maxpool",
    "avg": "avgpool",
    "soft": "softmax",
}

UNSUPPORTED_SECTIONS = frozenset(
    {
        "activation",
        "batchnorm",
        "contrastive",
        "conv_lstm",
        "crnn",
        "crop",
        "deconv",
        "deconvolutional",
        "detection",
        "empty",
        "Gaussian_yolo",
        "gru",
        "implicit",
        "iseg",
        "l2norm",
        "local",
        "local_avg",
        "local_avgpool",
        "logistic",
        "lrn",
        "lstm",
        "normalization",
        "reorg3d",
        "rnn",
        "sam",
        "scale_channels",
    }
)

UNSUPPORTED_ACTIVATIONS = frozenset(
    {
        "elu",
        "gelu",
        "hard_mish",
        "hardtan",
        "lhtan",
        "loggy",
        "norm_chan",
        "norm_chan_softmax",
        "norm_chan_softmax_maxval",
        "plse",
        "ramp",
        "relie",
        "relu6",
        "revleaky",
        "selu",
        "stair",
        "swish",
        "tanh",
    }
)

UNSUPPORTED_COSTS = frozenset({"L1", "masked", "seg", "smooth", "wgan"})

# Darknet writes "sigmoid" in its files and calls it SIG inside.
POLICIES = {
    "constant": "constant",
    "steps": "steps",
    "step": "step",
    "exp": "exp",
    "poly": "poly",
    "sigmoid": "sig",
    "sig": "sig",
}
UNSUPPORTED_POLICIES = frozenset({"random", "sgdr"})

# Darknet's classifier augmentation (rotation, aspect ratio, random crop sizes), which
# mpitile does not apply. The real cfg files hold these keys with any value and a network
# computes the same without them, so they are read and dropped instead of refused.
IGNORED_KEYS = {
    "net": frozenset(
        {"angle", "aspect", "center", "max_crop", "max_ratio", "min_crop", "min_ratio"}
    ),
    # Darknet itself reads `absolute` and never uses it.
    "region": frozenset({"absolute"}),
}

KEYS = {
    "net": frozenset(
        {
            "B1",
            "B2",
            "adam",
            "batch",
            "burn_in",
            "channels",
            "decay",
            "eps",
            "exposure",
            "flip",
            "gamma",
            "height",
            "hue",
            "learning_rate",
            "max_batches",
            "momentum",
            "policy",
            "power",
            "saturation",
            "scale",
            "scales",
            "step",
            "steps",
            "subdivisions",
            "width",
        }
    ),
    "convolutional": frozenset(
        {
            "activation",
            "batch_normalize",
            "filters",
            "groups",
            "pad",
            "padding",
            "size",
            "stride",
        }
    ),
    "connected": frozenset({"activation", "batch_normalize", "output"}),
    "maxpool": frozenset({"padding", "size", "stride"}),
    "avgpool": frozenset(),
    "route": frozenset({"layers"}),
    "shortcut": frozenset({"activation", "from"}),
    "reorg": frozenset({"stride"}),
    "upsample": frozenset({"scale", "stride"}),
    "dropout": frozenset({"probability"}),
    "softmax": frozenset(),
    "cost": frozenset({"type"}),
    "region": frozenset(
        {
            "anchors",
            "bias_match",
            "class_scale",
            "classes",
            "coord_scale",
            "jitter",
            "max",
            "noobject_scale",
            "num",
            "object_scale",
            "random",
            "rescore",
            "softmax",
            "thresh",
        }
    ),
    "yolo": frozenset(
        {
            "anchors",
            "classes",
            "ignore_thresh",
            "jitter",
            "mask",
            "max",
            "num",
            "random",
            "scale_x_y",
            "truth_thresh",
        }
    ),
}

# Keys of Darknet that are implemented for one value only; None: for no value.
FIXED_KEYS: dict[str, dict[str, str | None]] = {
    "net": {
        "blur": "0",
        "clip": "0",
        "cutmix": "0",
        "inputs": None,
        "label_smooth_eps": "0",
        "learning_rate_min": None,
        "mixup": "0",
        "mosaic": "0",
        "notruth": "0",
        "random": "0",
        "seq_scales": None,
        "time_steps": "1",
    },
    "convolutional": {
        "antialiasing": "0",
        "binary": "0",
        "dilation": "1",
        "dot": "0",
        "flipped": "0",
        "share_index": None,
        "stride_x": None,
        "stride_y": None,
        "xnor": "0",
    },
    "maxpool": {
        "antialiasing": "0",
        "maxpool_depth": "0",
        "stride_x": None,
        "stride_y": None,
    },
    "route": {"group_id": "0", "groups": "1"},
    "shortcut": {"alpha": "1", "beta": "1", "weights_normalizion": "none", "weights_type": "none"},
    "reorg": {"extra": "0", "flatten": "0", "reverse": "0"},
    "dropout": {"dropblock": "0"},
    "softmax": {"groups": "1", "noloss": "0", "spatial": "0", "temperature": "1", "tree": None},
    "cost": {"noobject_scale": "1", "ratio": "0", "scale": "1", "thresh": "0"},
    "region": {
        "background": "0",
        "classfix": "0",
        "coords": "4",
        "focal_loss": "0",
        "log": "0",
        "map": None,
        "mask_scale": "1",
        "sqrt": "0",
        "tree": None,
    },
    # What Darknet's later branches have added to the loss.
    "yolo": {
        "beta_nms": "0.6",
        "cls_normalizer": "1",
        "counters_per_class": None,
        "delta_normalizer": "1",
        "focal_loss": "0",
        "iou_loss": "mse",
        "iou_normalizer": "1",
        "iou_thresh": "1",
        "label_smooth_eps": "0",
        "map": None,
        "max_delta": None,
        "new_coords": "0",
        "nms_kind": "default",
        "obj_normalizer": "1",
        "objectness_smooth": "0",
        "resize": None,
        "track": "0",
    },
}
