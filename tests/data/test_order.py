import pytest

from mpitile.data.order import sample_index


def epoch(number, count, seed):
    return [sample_index(number * count + place, count, seed, True) for place in range(count)]


@pytest.mark.parametrize("count", [1, 2, 17])
def test_each_epoch_is_a_permutation(count):
    for number in range(6):
        assert sorted(epoch(number, count, 3)) == list(range(count))


def test_epochs_and_seeds_differ_and_can_be_entered_anywhere():
    first = epoch(0, 50, 1)
    assert epoch(1, 50, 1) != first
    assert epoch(0, 50, 2) != first
    assert sample_index(31, 50, 1, True) == first[31]


def test_without_shuffle_the_list_comes_round_and_round():
    assert [sample_index(position, 3, 9, False) for position in range(7)] == [0, 1, 2, 0, 1, 2, 0]
