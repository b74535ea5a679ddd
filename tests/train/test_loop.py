"""What a run tells its user."""

import contextlib

import pytest
from small_jobs import box_images, detector, small_settings

from mpitile.comm.local import run_ranks
from mpitile.train.loop import train


class Messages:
    def __init__(self):
        self.texts = []

    def message(self, text):
        self.texts.append(text)

    def update(self, step, loss, images_per_second):
        """Not looked at."""


@pytest.mark.parametrize(
    "partner, per_device, told", [(True, "auto", True), (True, 1, False), (False, "auto", False)]
)
def test_copies_on_other_devices_need_other_devices(tmp_path, partner, per_device, told):
    settings = small_settings(
        tmp_path,
        detector(),
        box_images(tmp_path / "data", 4),
        train={"steps": 1},
        tiling={"ranks_per_device": per_device},
        checkpoint={"partner": partner, "every": 1},
    )

    def work(comm):
        console = Messages()
        train(settings, comm, False, lambda steps, done: contextlib.nullcontext(console))
        return console.texts

    texts = run_ranks(2, work)[0]
    assert any("checkpoint.partner" in text for text in texts) == told
    assert texts[-1].startswith("trained 1 steps")
    copies = sorted(path.name for path in tmp_path.glob("out/checkpoints/*/copy-*"))
    kept = partner and per_device == 1
    assert copies == (["copy-00000.h5", "copy-00001.h5"] if kept else [])
