"""Many strings in one block of bytes, and an index of strings by a key.

A list of 650,000 Python strings costs 60 MB and more, and each forked worker soon has a copy:
reading a string counts a reference, which writes to its page. Here the bytes are in one array,
to which nothing writes.
"""

from __future__ import annotations

import itertools
from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol, overload

import numpy as np

_AT_A_TIME = 1024  # strings decoded at once when all are read


class Numbers(Protocol):
    """A one-dimensional array that is only read."""

    def __len__(self) -> int: ...
    def __getitem__(self, part: slice, /) -> np.ndarray: ...


class Strings(Sequence[str]):
    """Strings of any length, one after another in a block of bytes.

    Args:
        strings: read once, one at a time.
    """

    def __init__(self, strings: Iterable[str]) -> None:
        block, ends = bytearray(), array("q", [0])
        for string in strings:
            block += string.encode("utf-8", "surrogateescape")
            ends.append(len(block))
        self._block: Numbers = np.frombuffer(block, dtype=np.uint8)
        self._ends: Numbers = np.frombuffer(ends, dtype=np.int64)  # (N + 1,)

    def moved(self, into: Callable[[np.ndarray], Numbers]) -> Strings:
        """The same strings in arrays of another kind, such as shared memory."""
        moved = Strings([])
        moved._block, moved._ends = into(self._block[:]), into(self._ends[:])
        return moved

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


class KeyIndex:
    """An index of strings by a key, in 24 bytes each besides the strings.

    Args:
        strings: read once, one at a time.
        key: the key of a string.
    """

    def __init__(self, strings: Iterable[str], key: Callable[[str], str]) -> None:
        keys = array("q")

        def hashed() -> Iterator[str]:
            for string in strings:
                keys.append(hash(key(string)))
                yield string

        self._strings = Strings(hashed())
        self._key = key
        hashes = np.array(keys, dtype=np.int64)
        self._order = np.argsort(hashes, kind="stable")
        self._hashes = array("q", hashes[self._order].tobytes())  # bisects faster than numpy

    def find(self, key: str) -> list[str]:
        """All strings of this key, in the order in which they were read."""
        digest = hash(key)
        strings, place = [], bisect_left(self._hashes, digest)
        while place < len(self._hashes) and self._hashes[place] == digest:
            strings.append(self._strings[int(self._order[place])])
            place += 1
        return [string for string in strings if self._key(string) == key]


def repeats(strings: Strings, key: Callable[[str], str] = str) -> Iterator[tuple[int, int]]:
    """(index, index of the first equal string) of every string that repeats another, in order.

    Sorts 64-bit hashes and compares only the strings that share one: a set of 650,000 strings
    would cost 100 MB.

    Args:
        strings: read twice.
        key: strings of one key are equal.
    """
    hashes = np.fromiter((hash(key(s)) for s in strings), dtype=np.int64, count=len(strings))
    order = np.argsort(hashes)
    same = np.flatnonzero(np.diff(hashes[order]) == 0)
    suspects = np.unique(np.concatenate([order[same], order[same + 1]]))
    first: dict[str, int] = {}
    for index in suspects.tolist():
        before = first.setdefault(key(strings[index]), index)
        if before != index:
            yield index, before


def columns(rows: Iterable[tuple[int, str, int]]) -> tuple[Strings, array[int], array[int]]:
    """Rows (line, text, label), read one at a time, as columns: texts, labels and lines."""
    labels, lines = array("q"), array("q")

    def texts() -> Iterator[str]:
        for line, text, label in rows:
            lines.append(line)
            labels.append(label)
            yield text

    return Strings(texts()), labels, lines
