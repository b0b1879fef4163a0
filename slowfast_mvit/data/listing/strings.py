"""Many strings in one block of bytes, which worker processes share however they are started.

A list of 650,000 Python strings costs 60 MB and more, and each forked worker soon holds a copy: to
look at a string is to count a reference, which writes to its page. Here the bytes lie in one array
(see ``shared_arrays.py``), to which nothing writes.
"""

from __future__ import annotations

import itertools
from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import overload

import numpy as np

from slowfast_mvit.data.listing.shared_arrays import SharedArray

_AT_A_TIME = 1024  # strings decoded at once when all are wanted


class Strings(Sequence[str]):
    """Strings of any length, one after another in a block of bytes.

    Args:
        strings: read once, one at a time.
    """

    def __init__(self, strings: Iterable[str]) -> None:
        block, ends = bytearray(), array("q", [0])
        for string in strings:
            block += _encoded(string)
            ends.append(len(block))
        self._block = SharedArray(np.frombuffer(block, dtype=np.uint8))
        self._ends = SharedArray(np.frombuffer(ends, dtype=np.int64))  # (N + 1,)

    def __len__(self) -> int:
        return len(self._ends) - 1

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[i] for i in range(len(self))[index]]
        i = range(len(self))[index]  # raises IndexError, and turns -1 into the last
        return self._decoded(i, i + 1)[0]

    def __iter__(self) -> Iterator[str]:
        for first in range(0, len(self), _AT_A_TIME):
            yield from self._decoded(first, min(first + _AT_A_TIME, len(self)))

    def _decoded(self, first: int, last: int) -> list[str]:
        ends = self._ends[first : last + 1].tolist()
        block = self._block[ends[0] : ends[-1]].tobytes()
        return [
            block[start - ends[0] : end - ends[0]].decode("utf-8", "surrogateescape")
            for start, end in itertools.pairwise(ends)
        ]


def repeats(strings: Strings) -> Iterator[tuple[int, int]]:
    """(index, index of the first equal string) for every string that was there before, in order.

    Sorts 64-bit hashes and compares only the strings that share one: a set of 650,000 strings
    would cost 100 MB.
    """
    hashes = np.fromiter(map(hash, strings), dtype=np.int64, count=len(strings))
    order = np.argsort(hashes)
    same = np.flatnonzero(np.diff(hashes[order]) == 0)
    suspects = np.unique(np.concatenate([order[same], order[same + 1]]))
    first: dict[str, int] = {}
    for index in suspects.tolist():
        before = first.setdefault(strings[index], index)
        if before != index:
            yield index, before


def _encoded(string: str) -> bytes:
    return string.encode("utf-8", "surrogateescape")
