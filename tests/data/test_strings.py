"""Strings in one block of bytes, and what is found among them by hash."""

from __future__ import annotations

import os
import pickle
from typing import ClassVar

import numpy as np
import pytest

from slowfast_mvit.annotations import columns
from slowfast_mvit.annotations.columns import KeyIndex, Strings, repeats
from slowfast_mvit.annotations.files import stem
from slowfast_mvit.data.lists import shared_arrays
from slowfast_mvit.data.lists.shared_arrays import SharedArray


def test_strings_are_returned_unchanged():
    given = ["a", "", "naïve 日本.mp4", b"caf\xe9".decode("utf-8", "surrogateescape")] * 700

    kept = Strings(iter(given))

    assert len(kept) == 2800
    assert list(kept) == given
    assert [kept[i] for i in (0, 1, 2, -1)] == [given[i] for i in (0, 1, 2, -1)]
    assert kept[2:5] == given[2:5]
    with pytest.raises(IndexError):
        kept[2800]


@pytest.mark.parametrize("given", [[], [""]])
def test_there_may_be_none_or_none_with_letters(given):
    assert list(Strings(given)) == given
    assert list(repeats(Strings(given))) == []


@pytest.mark.parametrize("hashed", [hash, lambda string: 7, len], ids=["hash", "one", "few"])
def test_repeats_are_equal_strings_also_with_equal_hashes(monkeypatch, hashed):
    monkeypatch.setattr(columns, "hash", hashed, raising=False)

    found = list(repeats(Strings(["b", "a", "cc", "b", "d", "a", "b"])))

    assert found == [(3, 0), (5, 1), (6, 0)]


def test_files_are_found_by_name_also_with_equal_hashes(monkeypatch):
    monkeypatch.setattr(columns, "hash", lambda stem: 7, raising=False)

    files = KeyIndex(["x/a.mp4", "b.mkv", "y/a.webm", "c.mp4"], stem)

    assert files.find("a") == ["x/a.mp4", "y/a.webm"]
    assert files.find("c") == ["c.mp4"]
    assert files.find("d") == []


class Sent:
    """A descriptor on its way into a worker that is being spawned."""

    files: ClassVar[list[int]] = []

    def __init__(self, descriptor):
        self.files.append(os.fstat(descriptor).st_ino)
        self.descriptor = os.dup(descriptor)

    def detach(self):
        return self.descriptor


def test_spawned_workers_get_one_file_without_a_name_and_no_copies(monkeypatch):
    array = SharedArray(np.arange(100_000))
    monkeypatch.setattr(shared_arrays, "get_spawning_popen", lambda: "a worker")
    monkeypatch.setattr(shared_arrays, "DupFd", Sent)

    sent = [pickle.dumps(array) for _ in range(2)]
    first, second = map(pickle.loads, sent)

    assert max(map(len, sent)) < 300  # bytes: no copy of the numbers
    assert len(set(Sent.files)) == 1 and len(Sent.files) == 2
    for received in (array, first, second):
        assert received[:].tolist() == list(range(100_000))
        assert received[-2:].tolist() == [99_998, 99_999]
    with pytest.raises(ValueError, match="read-only"):
        first._values[0] = 7


def test_outside_of_spawning_a_pickle_contains_the_numbers():
    array = SharedArray(np.array([3, 1, 2]))

    part = array[1:]
    part[0] = 9

    assert pickle.loads(pickle.dumps(array))[:].tolist() == array[:].tolist() == [3, 1, 2]
