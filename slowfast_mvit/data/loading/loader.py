"""Batches: which videos go into which, in this process or in workers.

    key of each item (epoch, position, index) -> read_batch -> ClipBatch

Everything random is a function of the keys, so the batches do not depend on the number of workers,
on how they are started, on which of them die, or on where a run was resumed.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch

from slowfast_mvit.data.loading.eval_items import EvalVideos
from slowfast_mvit.data.loading.items import ItemKey, VideoItems, read_batch
from slowfast_mvit.data.loading.train_items import TrainVideos
from slowfast_mvit.data.loading.worker import BatchKeys
from slowfast_mvit.data.loading.worker_pool import WorkerPool
from slowfast_mvit.errors import ListError
from slowfast_mvit.randomness import ORDER, generator
from slowfast_mvit.structures import ClipBatch

VIDEO_TIMEOUT_S = 300.0


class Loader:
    """Hands out the batches of an epoch, from any step on. Use ``train_loader``/``eval_loader``.

    Args:
        dataset: of videos.
        keys: the items of each batch.
        num_videos: in an epoch.
        num_workers: processes that read; 0 to read in this one.
        pin_memory: keep batches in page-locked memory where there is a CUDA device.
        start_method: how workers are started: "fork", "spawn" or "forkserver"; "" for the last.
            With "fork", do not decode in this process before they are.
        timeout_s: how long a worker may take for a video before it counts as stuck.
    """

    def __init__(
        self,
        dataset: VideoItems,
        keys: BatchKeys,
        *,
        num_videos: int,
        num_workers: int = 0,
        pin_memory: bool = False,
        start_method: str = "",
        timeout_s: float = VIDEO_TIMEOUT_S,
    ) -> None:
        self.dataset = dataset
        self.num_videos = num_videos
        self._keys = keys
        self._pins = pin_memory and torch.cuda.is_available()
        self._pool: WorkerPool | None = None
        if num_workers > 0:
            self._pool = WorkerPool(
                dataset,
                keys,
                num_workers=num_workers,
                start_method=start_method,
                timeout_s=timeout_s,
            )

    def __len__(self) -> int:
        """Steps in an epoch."""
        return len(self._keys)

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[ClipBatch]:
        """The batches of an epoch, without those before ``start_step``.

        Raises:
            UserError: what reading could not go on from.
        """
        steps = range(start_step, len(self))
        batches: Iterator[ClipBatch]
        if self._pool is None:
            batches = (read_batch(self.dataset, self._keys(epoch, step)) for step in steps)
        else:
            batches = self._pool.batches(epoch, steps)
        return pinned(batches) if self._pins else batches


def pinned(batches: Iterator[ClipBatch]) -> Iterator[ClipBatch]:
    """The batches in page-locked memory, each copied there while the one before it is used."""

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
    """The items of training batches: of each epoch's order, the part of one rank.

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
    """The order of the videos in an epoch, (num_listed,); kept small, as each worker has one."""
    order: np.ndarray = generator(seed, epoch, 0, ORDER).permutation(num_listed)
    return order.astype(np.min_scalar_type(num_listed))


def part_of(length: int, number: int, num_parts: int) -> slice:
    """Return one of so many contiguous parts, counted from 0; their lengths differ by 1 at
    most, and together they are the whole, each place once."""
    return slice(number * length // num_parts, (number + 1) * length // num_parts)


@dataclass(frozen=True)
class OrderedKeys:
    """The items of test batches: a part of the list, in its order.

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
    num_workers: int = 0,
    rank: int = 0,
    world_size: int = 1,
    pin_memory: bool = False,
    start_method: str = "",
    timeout_s: float = VIDEO_TIMEOUT_S,
) -> Loader:
    """Shuffled batches of equal size; videos that do not fill a last one are left out this epoch.

    Args:
        dataset: the videos.
        batch_size: videos in a batch of this process.
        seed: ``RNG_SEED``: decides the order of each epoch.
        num_workers: see ``Loader``, also for the rest.
        rank: of this process: it takes every ``world_size``-th position from here.
        world_size: number of processes.

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
    return Loader(
        dataset,
        keys,
        num_videos=len(keys) * batch_size,
        num_workers=num_workers,
        pin_memory=pin_memory,
        start_method=start_method,
        timeout_s=timeout_s,
    )


def eval_loader(
    dataset: EvalVideos,
    *,
    batch_size: int,
    indices: Sequence[int] | None = None,
    num_workers: int = 0,
    rank: int = 0,
    world_size: int = 1,
    pin_memory: bool = False,
    start_method: str = "",
    timeout_s: float = VIDEO_TIMEOUT_S,
) -> Loader:
    """Batches in the order of the list; the last may be smaller.

    Args:
        dataset: the videos.
        batch_size: videos in a batch.
        indices: which of the videos, ascending; all if None.
        num_workers: see ``Loader``, also for the rest.
        rank: of this process: it takes a contiguous part of those videos.
        world_size: number of processes.
    """
    wanted = range(len(dataset)) if indices is None else indices
    mine = wanted[part_of(len(wanted), rank, world_size)]
    return Loader(
        dataset,
        OrderedKeys(mine, batch_size),
        num_videos=len(mine),
        num_workers=num_workers,
        pin_memory=pin_memory,
        start_method=start_method,
        timeout_s=timeout_s,
    )
