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


@pytest.mark.parametrize("partner", [True, False])
def test_a_setting_that_does_nothing_yet_is_said_to_do_nothing(tmp_path, partner):
    data = box_images(tmp_path / "data", 4)
    settings = small_settings(
        tmp_path, detector(), data, train={"steps": 1}, checkpoint={"partner": partner}
    )

    def work(comm):
        console = Messages()
        train(settings, comm, False, lambda steps, done: contextlib.nullcontext(console))
        return console.texts

    texts = run_ranks(1, work)[0]
    assert any("checkpoint.partner" in text for text in texts) == partner
    assert texts[-1].startswith("trained 1 steps")
