"""What a run tells its user."""

import contextlib

import pytest
from full_disk import fill_disk, needs_full_disk
from small_jobs import box_images, detector, small_settings

from mpitile.comm.local import run_ranks
from mpitile.errors import InputError
from mpitile.train.loop import train
from mpitile.train.run_folder import RunFolder


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


@needs_full_disk
@pytest.mark.parametrize("name", ["metrics.csv", "events.jsonl"])
@pytest.mark.parametrize(("last", "done"), [(6, 3), (3, 3), (2, 2)])
def test_all_ranks_end_where_rank_0_cannot_write(tmp_path, monkeypatch, name, last, done):
    """From step 2 on: told with the figures of step 3, or behind the last step and its weights."""
    settings = small_settings(
        tmp_path, detector(), box_images(tmp_path / "data", 4), train={"steps": last}
    )
    steps, added = [], RunFolder.add_metrics

    def add_metrics(folder, metrics):
        steps.append(metrics.step)
        if metrics.step == 2:
            fill_disk(folder, name)
            folder.add_event("any", step=2)
        added(folder, metrics)

    monkeypatch.setattr(RunFolder, "add_metrics", add_metrics)

    def work(comm):
        with pytest.raises(InputError) as caught:
            train(settings, comm, False, lambda steps, done: contextlib.nullcontext(Messages()))
        return str(caught.value)

    said = f"output.dir {tmp_path / 'out'}: {name} cannot be written: No space left on device"
    assert run_ranks(2, work) == [said] * 2
    assert steps == list(range(1, done + 1))
    assert (tmp_path / "out" / "final.weights").exists() == (done == last)
