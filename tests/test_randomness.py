"""A draw depends on where it is used and on nothing else."""

import itertools

import numpy as np

from slowfast_mvit import randomness


def test_equal_places_draw_equal_numbers():
    first = randomness.generator(1, 2, 3, randomness.TEMPORAL).random(5)
    again = randomness.generator(1, 2, 3, randomness.TEMPORAL).random(5)

    np.testing.assert_array_equal(first, again)


def test_different_places_draw_different_numbers():
    places = itertools.product((0, 1), (0, 1), (0, 1), (0, 1, randomness.TEMPORAL), (0, 1))
    draws = [
        randomness.generator(seed, epoch, position, stream, rank).integers(2**62)
        for seed, epoch, position, stream, rank in places
    ]

    assert len(set(draws)) == len(draws)


def test_a_long_draw_does_not_run_into_the_next_rank():
    mine = randomness.generator(0, 0, 0, randomness.BATCH, rank=0).random(100_000)
    neighbour = randomness.generator(0, 0, 0, randomness.BATCH, rank=1).random(10)

    assert not np.isin(neighbour, mine).any()


def test_the_numbers_are_the_same_on_every_machine():
    # Philox is specified bit by bit; this pins the key and counter layout that resuming relies on.
    drawn = randomness.generator(7, 11, 13, 17, rank=19).integers(0, 2**32, size=3)

    reference = np.random.Generator(np.random.Philox(key=[7, 11], counter=[0, 19, 17, 13]))
    np.testing.assert_array_equal(drawn, reference.integers(0, 2**32, size=3))
