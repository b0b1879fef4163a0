"""The videos that are held out for validation and testing, where nothing else says which."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable

VAL_FRACTION = 0.2


def held_out(
    names: Iterable[str], *, val: float = VAL_FRACTION, test: float = 0.0
) -> dict[str, str]:
    """The split of each name that is held out, "val" or "test"; the others are to train on.

    The hash of a name decides, so adding names moves no others, on any machine. Of few names the
    hashes may hold out none or most: they decide between half and one and a half of a fraction, at
    least one; and one name is always left to train on.

    Args:
        names: of the videos of one class, without suffix; or of the sources of all videos.
        val: fraction for validation.
        test: fraction for testing.
    """
    ordered = sorted((_place_of(name), name) for name in set(names))

    def number(start: float, fraction: float, most: int) -> int:
        expected = len(ordered) * fraction
        least = max(math.floor(expected / 2), 1) if fraction else 0
        drawn = sum(start <= place < start + fraction for place, _ in ordered)
        return min(max(drawn, least), max(math.floor(1.5 * expected), least), most)

    reserved = 1 + (test > 0 and len(ordered) > 2)  # for training, and for testing
    num_val = number(test, val, max(len(ordered) - reserved, 0))
    num_test = number(0.0, test, max(len(ordered) - 1 - num_val, 0))
    split_of = dict.fromkeys((name for _, name in ordered[:num_test]), "test")
    return split_of | {name: "val" for _, name in ordered[num_test : num_test + num_val]}


def _place_of(name: str) -> float:
    """A number from 0 to below 1 that follows from a name, all alike likely."""
    digest = hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
