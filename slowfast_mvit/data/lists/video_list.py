"""A list of videos as columns in memory."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import overload

import numpy as np

from slowfast_mvit.annotations.columns import Strings
from slowfast_mvit.annotations.records import Annotated
from slowfast_mvit.data.lists.shared_arrays import SharedArray
from slowfast_mvit.structures import VideoRecord


class VideoList(Sequence[VideoRecord]):
    """The videos of one list, as columns; a record is made when it is indexed.

    Worker processes share the columns, however they are started (see ``shared_arrays.py``).

    Args:
        video_ids: the videos as the list names them.
        labels: their class indices.
        paths: their files, relative to ``folder``; left out where the names are the paths.
        folder: the start of relative paths.
        class_names: names in the order of the class indices, or None where unknown.
        source: the file or folder this was read from, for messages.
    """

    def __init__(
        self,
        video_ids: Iterable[str],
        labels: Iterable[int],
        *,
        paths: Iterable[str] | None = None,
        folder: str | Path = "",
        class_names: tuple[str, ...] | None = None,
        source: str | Path = "",
    ) -> None:
        self._video_ids = _shared(video_ids)
        self._paths = self._video_ids if paths is None else _shared(paths)
        self._folder = "" if Path(folder) == Path() else str(folder)
        self._labels = SharedArray(np.fromiter(labels, dtype=np.int64))
        self.class_names = class_names
        self.source = str(source)
        if not len(self._video_ids) == len(self._paths) == len(self._labels):
            raise ValueError("video_ids, paths and labels must be equally many")

    @classmethod
    def of(cls, videos: Annotated) -> VideoList:
        """The list of annotated videos."""
        return cls(
            videos.video_ids,
            videos.labels,
            paths=videos.paths,
            folder=videos.folder,
            class_names=videos.class_names,
            source=videos.source,
        )

    def with_classes(self, order: Sequence[int], class_names: tuple[str, ...]) -> VideoList:
        """Return the same videos with other class indices.

        Args:
            order: the new index of each class.
            class_names: in the order of the new indices.
        """
        return VideoList(
            self._video_ids,
            np.asarray(order, dtype=np.int64)[self.labels],
            paths=self._paths,
            folder=self._folder,
            class_names=class_names,
            source=self.source,
        )

    @property
    def labels(self) -> np.ndarray:
        """(N,) int64, a copy."""
        return self._labels[:]

    def __len__(self) -> int:
        return len(self._labels)

    @overload
    def __getitem__(self, index: int) -> VideoRecord: ...
    @overload
    def __getitem__(self, index: slice) -> list[VideoRecord]: ...
    def __getitem__(self, index: int | slice) -> VideoRecord | list[VideoRecord]:
        if isinstance(index, slice):
            return [self[i] for i in range(len(self))[index]]
        i = range(len(self))[index]  # raises IndexError, and turns -1 into the last
        # Not pathlib, which keeps a table of all the names it ever met.
        path = os.path.join(self._folder, self._paths[i])
        return VideoRecord(self._video_ids[i], path, int(self._labels[i : i + 1][0]))

    def __iter__(self) -> Iterator[VideoRecord]:
        return (self[i] for i in range(len(self)))

    def digest(self) -> str:
        """64 hexadecimal digits that follow from which videos are listed with which labels.

        It does not depend on their folder, which may differ from node to node.
        """
        digest = hashlib.sha256(self.labels.tobytes())
        for video_id in self._video_ids:
            digest.update(video_id.encode("utf-8", "surrogateescape") + b"\n")
        return digest.hexdigest()

    def __repr__(self) -> str:
        return f"VideoList({len(self):,} videos from {self.source!r})"


def _shared(strings: Iterable[str]) -> Strings:
    columns = strings if isinstance(strings, Strings) else Strings(strings)
    return columns.moved(SharedArray)
