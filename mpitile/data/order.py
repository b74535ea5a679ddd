"""Which sample comes when: a function of the position, with no state to save."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

# Keeps these numbers apart from augmentation's, which come from the same seed.
_STREAM = 1


def sample_index(position: int, count: int, seed: int, shuffle: bool) -> int:
    """The sample to take for the image at `position` of the run.

    Parameters
    ----------
    position : running number of the image over all epochs, from 0.
    count : number of samples.
    seed : at least 0.
    shuffle : each epoch in its own random order; else always in the order of the list.
    """
    epoch, place = divmod(position, count)
    return int(_permutation(count, seed, epoch)[place]) if shuffle else place


# Two data sets, and the two epochs that meet in one batch.
@lru_cache(maxsize=4)
def _permutation(count: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng([_STREAM, seed, epoch]).permutation(count)
