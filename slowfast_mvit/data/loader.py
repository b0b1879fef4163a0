"""Batches: which videos go into which, and the worker processes that read them.

    key of each item (epoch, position, index) -> workers -> VideoViews -> collate -> ClipBatch

Everything random is a function of the keys, so the batches do not depend on the number of workers,
on how they are started, or on where a run was resumed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from slowfast_mvit.data.eval_videos import EvalVideos
from slowfast_mvit.data.items import ItemKey, VideoViews
from slowfast_mvit.data.train_videos import TrainVideos
from slowfast_mvit.errors import DecodeError, ListError, UserError
from slowfast_mvit.randomness import ORDER, generator
from slowfast_mvit.structures import ClipBatch

WORKER_TIMEOUT_S = 600.0

Batches = Callable[[int], Sequence[Sequence[ItemKey]]]


class Loader:
    """Hands out the batches of an epoch, from any step on. Use ``train_loader``/``eval_loader``.

    Args:
        dataset: of videos.
        batches: the keys of each batch of an epoch; equally many in every epoch.
        num_workers: processes that read; 0 to read in this one.
        pin_memory: keep batches in page-locked memory where there is a CUDA device.
        start_method: how workers are started ("fork", "spawn", "forkserver"); None for the
            platform's own. Do not decode in this process before they are.
        timeout_s: how long to wait for a batch before a worker counts as stuck.
    """

    def __init__(
        self,
        dataset: TrainVideos | EvalVideos,
        batches: Batches,
        *,
        num_workers: int = 0,
        pin_memory: bool = False,
        start_method: str | None = None,
        timeout_s: float = WORKER_TIMEOUT_S,
    ) -> None:
        self.dataset = dataset
        self._batches = batches
        self._keys = _Keys()
        self._timeout_s = timeout_s
        first = batches(0)
        self._num_steps = len(first)
        self.num_videos = sum(len(batch) for batch in first)
        self._loader = DataLoader(
            _ErrorsAsItems(dataset),
            batch_sampler=self._keys,
            collate_fn=_Collate(dataset.views, _view_shape(dataset)),
            num_workers=num_workers,
            pin_memory=pin_memory and torch.cuda.is_available(),
            persistent_workers=num_workers > 0,
            multiprocessing_context=start_method if num_workers > 0 else None,
            timeout=timeout_s if num_workers > 0 else 0,
            generator=torch.Generator(),  # or each epoch would draw from the global one
        )

    def __len__(self) -> int:
        """Steps in an epoch."""
        return self._num_steps

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[ClipBatch]:
        """The batches of an epoch, without those before ``start_step``.

        Raises:
            UserError: what a worker could not go on from.
            DecodeError: a worker died or gave nothing for ``timeout_s``.
        """
        self._keys.batches = self._batches(epoch)[start_step:]
        num_given = 0
        try:
            for batch in self._loader:
                if isinstance(batch, UserError):
                    try:
                        raise batch
                    finally:
                        del batch  # this frame would keep itself alive, and the workers with it
                yield batch
                num_given += 1
        except RuntimeError as error:
            if not str(error).startswith("DataLoader"):
                raise
            raise self._lost_worker(num_given, error) from error

    def _lost_worker(self, num_given: int, error: RuntimeError) -> DecodeError:
        keys = self._keys.batches[num_given]
        names = ", ".join(self.dataset.videos[key.index].video_id for key in keys[:8])
        return DecodeError(
            f"a worker that reads videos died, or gave nothing for {self._timeout_s:g} s "
            f"({error}). The batch waited for starts with {names}. If memory ran out, lower "
            "DATA_LOADER.NUM_WORKERS; if a video brings its reader down, drop it from the list"
        )


def train_loader(
    dataset: TrainVideos,
    *,
    batch_size: int,
    seed: int,
    num_workers: int = 0,
    rank: int = 0,
    world_size: int = 1,
    pin_memory: bool = False,
    start_method: str | None = None,
    timeout_s: float = WORKER_TIMEOUT_S,
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
    num_listed, step_size = len(dataset), batch_size * world_size
    num_steps = num_listed // step_size
    if num_steps == 0:
        source = getattr(dataset.videos, "source", "") or "the training list"
        raise ListError(
            f"{source}: {num_listed} videos do not fill one batch of {step_size}. "
            "Lower TRAIN.BATCH_SIZE or list more videos"
        )

    def batches(epoch: int) -> list[list[ItemKey]]:
        order = generator(seed, epoch, 0, ORDER).permutation(num_listed)
        starts = range(rank, num_steps * step_size, step_size)
        return [
            [
                ItemKey(epoch, position, int(order[position]))
                for position in range(start, start - rank + step_size, world_size)
            ]
            for start in starts
        ]

    return Loader(
        dataset,
        batches,
        num_workers=num_workers,
        pin_memory=pin_memory,
        start_method=start_method,
        timeout_s=timeout_s,
    )


def eval_loader(
    dataset: EvalVideos,
    *,
    batch_size: int,
    num_workers: int = 0,
    rank: int = 0,
    world_size: int = 1,
    pin_memory: bool = False,
    start_method: str | None = None,
    timeout_s: float = WORKER_TIMEOUT_S,
) -> Loader:
    """Batches in the order of the list; the last may be smaller.

    Args:
        dataset: the videos.
        batch_size: videos in a batch.
        num_workers: see ``Loader``, also for the rest.
        rank: of this process: it takes a contiguous part of the list.
        world_size: number of processes.
    """
    num_listed = len(dataset)
    mine = range(rank * num_listed // world_size, (rank + 1) * num_listed // world_size)
    parts = [mine[start : start + batch_size] for start in range(0, len(mine), batch_size)]
    keys = [[ItemKey(0, index, index) for index in part] for part in parts]
    return Loader(
        dataset,
        lambda epoch: keys,
        num_workers=num_workers,
        pin_memory=pin_memory,
        start_method=start_method,
        timeout_s=timeout_s,
    )


class _Keys:
    """The batches of keys that the ``DataLoader`` hands to its workers; set before each epoch."""

    def __init__(self) -> None:
        self.batches: Sequence[Sequence[ItemKey]] = ()

    def __iter__(self) -> Iterator[list[ItemKey]]:
        return (list(batch) for batch in self.batches)

    def __len__(self) -> int:
        return len(self.batches)


class _ErrorsAsItems(Dataset):
    """A user's error travels from a worker as a value: raised there, it would be lost in a
    traceback."""

    def __init__(self, dataset: TrainVideos | EvalVideos) -> None:
        self._dataset = dataset

    def __getitem__(self, key: ItemKey) -> VideoViews | UserError:
        try:
            return self._dataset[key]
        except UserError as error:
            return error


@dataclass(frozen=True)
class _Collate:
    """Items -> ``ClipBatch``; runs in the worker.

    Attributes:
        views: (V, 2) int64.
        view_shape: (3, T, S, S), for a batch in which no video could be read; None in training.
    """

    views: Tensor
    view_shape: tuple[int, int, int, int] | None

    def __call__(self, items: Sequence[VideoViews | UserError]) -> ClipBatch | UserError:
        errors = [item for item in items if isinstance(item, UserError)]
        if errors:
            return errors[0]
        read = [item for item in items if isinstance(item, VideoViews) and item.record is not None]
        if read:
            pixels = default_collate([item.pixels for item in read])  # in shared memory
        else:
            pixels = torch.empty((0, len(self.views), *(self.view_shape or ())), dtype=torch.uint8)
        records = [item.record for item in read if item.record is not None]
        return ClipBatch(
            pixels=pixels,
            labels=torch.tensor([record.label for record in records], dtype=torch.int64),
            video_ids=tuple(record.video_id for record in records),
            views=self.views,
            failures=tuple(
                failure
                for item in items
                if isinstance(item, VideoViews)
                for failure in item.failures
            ),
        )


def _view_shape(dataset: TrainVideos | EvalVideos) -> tuple[int, int, int, int] | None:
    if isinstance(dataset, TrainVideos):
        return None
    side = dataset.plan.crop_px
    return (3, dataset.clip.num_frames, side, side)
