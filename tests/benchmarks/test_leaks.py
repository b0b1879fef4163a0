"""The benchmark of leaks: what it reports of a reader that leaks, and of one that does not."""

from __future__ import annotations

import contextlib
import json
import os

import pytest

from benchmarks import leaks
from slowfast_mvit.data.video import readers

pytestmark = pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="reads /proc")


def test_a_reader_that_keeps_its_files_open_is_seen(tmp_path, monkeypatch):
    kept = []

    @contextlib.contextmanager
    def open_and_keep(path):
        kept.append(open(path, "rb"))  # noqa: SIM115
        with readers.READERS["pyav"](path) as reader:
            yield reader

    monkeypatch.setitem(readers.READERS, "leaking", open_and_keep)
    files = leaks.write_files(tmp_path)

    tight = leaks.measure("pyav", files, 20, collect=True)
    leaking = leaks.measure("leaking", files, 20, collect=True)

    assert (tight["descriptors_growth"], tight["threads_growth"]) == (0, 0)
    assert leaking["descriptors_growth"] == 18  # after the first tenth
    assert len(leaking["rss_mb"]) == 10
    for file in kept:
        file.close()


def test_it_leaves_a_record(tmp_path, capsys):
    words = ["--opens", "10", "--readers", "pyav", "--results", str(tmp_path)]

    assert leaks.main(words) == 0

    printed = json.loads(capsys.readouterr().out.splitlines()[-1])
    (file,) = tmp_path.glob("leaks_*.json")
    assert json.loads(file.read_text()) == printed
    assert set(printed) >= {"num_opens", "pyav_with_gc", "pyav_without_gc", "machine"}
