"""The files that the benchmarks read are the same everywhere, and are like the real ones."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import av
import pytest

from benchmarks import videos


@pytest.fixture
def small(monkeypatch):
    """A second and a half of small pictures instead of ten of large ones."""
    for kind in ("kinetics", "ssv2"):
        tiny = replace(videos.KINDS[kind], sizes=((64, 112),), seconds=1.5)
        monkeypatch.setitem(videos.KINDS, kind, tiny)


def packets_of(path) -> list[av.Packet]:
    with av.open(str(path)) as container:
        return [packet for packet in container.demux(video=0) if packet.size]


def test_the_same_files_are_made_in_any_folder(small, tmp_path):
    (first,) = videos.make_videos(tmp_path / "a", "kinetics", 1)
    (second,) = videos.make_videos(tmp_path / "b", "kinetics", 1)

    assert first.name == second.name
    frames = [list(av.open(str(path)).decode(video=0)) for path in (first, second)]
    assert len(frames[0]) == len(frames[1]) == 45
    assert all((a.to_ndarray() == b.to_ndarray()).all() for a, b in zip(*frames, strict=True))


def test_files_are_made_once(small, tmp_path):
    (path,) = videos.make_videos(tmp_path, "ssv2", 1)
    written_ns = path.stat().st_mtime_ns

    assert videos.make_videos(tmp_path, "ssv2", 1) == [path]
    assert path.stat().st_mtime_ns == written_ns
    assert list(tmp_path.iterdir()) == [path]


def test_prepared_copies_have_a_key_frame_every_30_frames(small, tmp_path):
    originals = videos.make_videos(tmp_path, "kinetics", 1)

    (copy,) = videos.prepare_videos(originals)

    original_keys, copied_keys = (
        [number for number, packet in enumerate(packets_of(path)) if packet.is_keyframe]
        for path in (originals[0], copy)
    )
    assert original_keys == [0]
    ends = [*copied_keys[1:], len(packets_of(copy))]
    assert max(end - key for key, end in zip(copied_keys, ends, strict=True)) <= 30


def test_kinds_are_those_of_the_data_sets():
    kinetics, ssv2 = videos.KINDS["kinetics"], videos.KINDS["ssv2"]

    assert kinetics.sizes == ((256, 454), (256, 340))
    assert kinetics.options["g"] == "250"
    assert (ssv2.codec, ssv2.rates, ssv2.seconds) == ("libvpx-vp9", (Fraction(12),), 4.0)
