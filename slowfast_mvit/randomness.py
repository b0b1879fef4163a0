"""One rule for randomness: every draw is a function of where it is used, never of what ran before.

A generator is made afresh for each place that draws, keyed by (seed, epoch) and counted by
(position, stream). So the batches do not depend on the number of workers or ranks, nothing has to
be saved to resume, and a resumed run sees what the unbroken run would have seen.

Functions that draw take the generator as an argument, ``rng``; any object with numpy's draw methods
will do, so a golden test can pass ``numpy.random.RandomState(seed)``.
"""

from __future__ import annotations

import numpy as np

# What functions that draw take as ``rng``.
Draws = np.random.Generator | np.random.RandomState

# Streams below FIRST_PURPOSE are the views of one video: 0 for the first, 1 for the second, ...
FIRST_PURPOSE = 1 << 32
TEMPORAL = FIRST_PURPOSE + 0  # where in the video a training clip starts: shared by its views
REPLACEMENT = FIRST_PURPOSE + 1  # which video takes the place of an unreadable one
ORDER = FIRST_PURPOSE + 2  # the order of the videos in an epoch
BATCH = FIRST_PURPOSE + 3  # mixup, cutmix and erasing: position is (step, rank)
MODEL_MASKS = FIRST_PURPOSE + 4  # dropout and drop path: position is (step, rank)
SYNTHETIC = FIRST_PURPOSE + 5  # the videos that demo/synthetic.py draws


def generator(
    seed: int, epoch: int, position: int, stream: int, rank: int = 0
) -> np.random.Generator:
    """The generator that belongs to one place of a run.

    Args:
        seed: ``RNG_SEED`` of the run; 0 or more.
        epoch: 0-based epoch.
        position: place in the epoch of a video, or the step for a batch.
        stream: a view's number, or one of the purposes above.
        rank: rank of the process, for what is drawn per batch; 0 for what is drawn per video.

    Returns:
        A Philox generator; equal arguments give equal draws on every machine.
    """
    # The lowest counter word is Philox's own: it steps through the draws of this generator.
    bits = np.random.Philox(key=[seed, epoch], counter=[0, rank, stream, position])
    return np.random.Generator(bits)


def whole_number(rng: Draws, low: int, high: int) -> int:
    """A uniform draw from low, ..., high - 1.

    The one draw that numpy's two families of generators spell differently.
    """
    draw = rng.integers if isinstance(rng, np.random.Generator) else rng.randint
    return int(draw(low, high))
