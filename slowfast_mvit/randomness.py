"""One rule for randomness: every draw is a function of its place in the run, not of earlier draws.

A new generator is made for each place that draws, keyed by (seed, epoch) and counted by
(position, stream). So the batches do not depend on the number of workers or ranks, no generator
state has to be saved, and a resumed run has the same draws as an uninterrupted one.

Functions that draw take the generator as an argument, ``rng``; any object with numpy's draw methods
will do, so a golden test can pass ``numpy.random.RandomState(seed)``.
"""

from __future__ import annotations

import numpy as np

# The type of the argument ``rng`` of functions that draw.
Draws = np.random.Generator | np.random.RandomState

# Streams below FIRST_PURPOSE are the views of one video: 0 for the first, 1 for the second, ...
FIRST_PURPOSE = 1 << 32
TEMPORAL = FIRST_PURPOSE + 0  # start of a training clip in the video: shared by its views
REPLACEMENT = FIRST_PURPOSE + 1  # the video that replaces an unreadable one
ORDER = FIRST_PURPOSE + 2  # the order of the videos in an epoch
BATCH = FIRST_PURPOSE + 3  # mixup, cutmix and erasing: position is (step, rank)
MODEL_MASKS = FIRST_PURPOSE + 4  # dropout and drop path: position is (step, rank)
SYNTHETIC = FIRST_PURPOSE + 5  # the videos that demo/synthetic.py draws


def generator(
    seed: int, epoch: int, position: int, stream: int, rank: int = 0
) -> np.random.Generator:
    """Return the generator of one place of a run.

    Args:
        seed: ``RNG_SEED`` of the run; 0 or more.
        epoch: 0-based epoch.
        position: place in the epoch of a video, or the step for a batch.
        stream: a view's number, or one of the purposes above.
        rank: rank of the process, for draws per batch; 0 for draws per video.

    Returns:
        A Philox generator; equal arguments give equal draws on every machine.
    """
    # The lowest counter word is Philox's own: it steps through the draws of this generator.
    bits = np.random.Philox(key=[seed, epoch], counter=[0, rank, stream, position])
    return np.random.Generator(bits)


def whole_number(rng: Draws, low: int, high: int) -> int:
    """Draw uniformly from low, ..., high - 1.

    The only draw whose name differs between numpy's two kinds of generators.
    """
    draw = rng.integers if isinstance(rng, np.random.Generator) else rng.randint
    return int(draw(low, high))
