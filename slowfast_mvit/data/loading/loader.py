"""Batches: their videos, read in this process or in workers.

    key of each item (epoch, position, index) -> read_batch -> ClipBatch

Everything random is a function of the keys, so the batches do not depend on the number of workers,
on how they are started, on which of them die, or on the step from which a run was resumed.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch

from slowfast_mvit.data.loading.items import (
    EvalVideos,
    ItemKey,
    TrainVideos,
    VideoItems,
    read_batch,
)
from slowfast_mvit.data.loading.worker import BatchKeys
from slowfast_mvit.data.loading.worker_pool import WorkerPool, WorkerSettings
from slowfast_mvit.errors import ListError
from slowfast_mvit.randomness import ORDER, generator
from slowfast_mvit.structures import ClipBatch

NO_WORKERS = WorkerSettings()


class Loader:
    """The batches of an epoch, from any step on. Use ``train_loader`` or ``eval_loader``.

    Args:
        dataset: of videos.
        keys: the items of each batch.
        num_videos: in an epoch.
        workers: the processes that read.
    """

    def __init__(
        self, dataset: VideoItems, keys: BatchKeys, *, num_videos: int, workers: WorkerSettings
    ) -> None:
        self.dataset = dataset
        self.num_videos = num_videos
        self._keys = keys
        self._pins = workers.pin_memory and torch.cuda.is_available()
        self._pool = WorkerPool(dataset, keys, workers) if workers.num_workers > 0 else None

    def __len__(self) -> int:
        """Return the number of steps in an epoch."""
        return len(self._keys)

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[ClipBatch]:
        """Return the batches of an epoch, without those before ``start_step``.

        Raises:
            UserError: an error after which reading cannot continue.
        """
        steps = range(start_step, len(self))
        if self._pool is not None:
            batches = self._pool.batches(epoch, steps)
        else:
            batches = (read_batch(self.dataset, self._keys(epoch, step)) for step in steps)
        return pinned(batches) if self._pins else batches


def pinned(batches: Iterator[ClipBatch]) -> Iterator[ClipBatch]:
    """Return the batches in page-locked memory; each is copied while the one before is used."""

    def fetch() -> ClipBatch | None:
        batch = next(batches, None)
        return None if batch is None else batch.pin_memory()

    with ThreadPoolExecutor(1) as thread:
        upcoming = thread.submit(fetch)
        while (batch := upcoming.result()) is not None:
            upcoming = thread.submit(fetch)
            yield batch


@dataclass(frozen=True)
class ShuffledKeys:
    """Items of training batches: the part of one rank of the order of each epoch.

    Attributes:
        num_listed: videos in the list.
        batch_size: videos in a batch of one rank.
        seed: ``RNG_SEED``.
        rank: of this process: it takes every ``world_size``-th position from here.
        world_size: number of processes.
    """

    num_listed: int
    batch_size: int
    seed: int
    rank: int = 0
    world_size: int = 1

    def __len__(self) -> int:
        return self.num_listed // (self.batch_size * self.world_size)

    def __call__(self, epoch: int, step: int) -> list[ItemKey]:
        order = _order(self.num_listed, self.seed, epoch)
        start = step * self.batch_size * self.world_size
        positions = range(start + self.rank, start + self.batch_size * self.world_size)
        return [
            ItemKey(epoch, position, int(order[position]))
            for position in positions[:: self.world_size]
        ]


@functools.lru_cache(maxsize=1)
def _order(num_listed: int, seed: int, epoch: int) -> np.ndarray:
    """Return the order of the videos in an epoch, (num_listed,), in the smallest integer type."""
    order: np.ndarray = generator(seed, epoch, 0, ORDER).permutation(num_listed)
    return order.astype(np.min_scalar_type(num_listed))


def part_of(length: int, number: int, num_parts: int) -> slice:
    """Return one of ``num_parts`` contiguous parts, counted from 0, of equal lengths +- 1."""
    return slice(number * length // num_parts, (number + 1) * length // num_parts)


@dataclass(frozen=True)
class OrderedKeys:
    """Items of test batches: a part of the list, in its order.

    Attributes:
        indices: the part, ascending.
        batch_size: videos in a batch; the last may have fewer.
    """

    indices: Sequence[int]
    batch_size: int

    def __len__(self) -> int:
        return -(-len(self.indices) // self.batch_size)

    def __call__(self, epoch: int, step: int) -> list[ItemKey]:
        part = self.indices[step * self.batch_size : (step + 1) * self.batch_size]
        return [ItemKey(0, index, index) for index in part]


def train_loader(
    dataset: TrainVideos,
    *,
    batch_size: int,
    seed: int,
    rank: int = 0,
    world_size: int = 1,
    workers: WorkerSettings = NO_WORKERS,
) -> Loader:
    """Shuffled batches of equal size; videos that do not fill a last one are skipped this epoch.

    Args:
        dataset: the videos.
        batch_size: videos in a batch of this process.
        seed: ``RNG_SEED``: decides the order of each epoch.
        rank: of this process: it takes every ``world_size``-th position from here.
        world_size: number of processes.
        workers: the processes that read.

    Raises:
        ListError: when the list does not fill one batch of each process.
    """
    keys = ShuffledKeys(len(dataset), batch_size, seed, rank, world_size)
    if len(keys) == 0:
        source = getattr(dataset.videos, "source", "") or "the training list"
        raise ListError(
            f"{source}: {len(dataset)} videos do not fill one batch of {batch_size * world_size}. "
            "Lower TRAIN.BATCH_SIZE or list more videos"
        )
    return Loader(dataset, keys, num_videos=len(keys) * batch_size, workers=workers)


def eval_loader(
    dataset: EvalVideos,
    *,
    batch_size: int,
    indices: Sequence[int] | None = None,
    rank: int = 0,
    world_size: int = 1,
    workers: WorkerSettings = NO_WORKERS,
) -> Loader:
    """Batches in the order of the list; the last may be smaller.

    Args:
        dataset: the videos.
        batch_size: videos in a batch.
        indices: of the videos, ascending; all if None.
        rank: of this process: it takes a contiguous part of those videos.
        world_size: number of processes.
        workers: the processes that read.
    """
    listed = range(len(dataset)) if indices is None else indices
    part = listed[part_of(len(listed), rank, world_size)]
    return Loader(dataset, OrderedKeys(part, batch_size), num_videos=len(part), workers=workers)
