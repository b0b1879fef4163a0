"""The files that the benchmarks read are the same everywhere, and are like the real ones."""

from __future__ import annotations

import av
import pytest

from benchmarks import videos


@pytest.fixture
def small(monkeypatch):
    """A second and a half of small frames instead of ten of large ones."""
    monkeypatch.setattr(videos, "SIZES_PX", ((64, 112),))
    monkeypatch.setattr(videos, "SECONDS", 1.5)


def packets_of(path) -> list[av.Packet]:
    with av.open(str(path)) as container:
        return [packet for packet in container.demux(video=0) if packet.size]


def test_the_same_files_are_made_in_any_folder(small, tmp_path):
    (first,) = videos.make_videos(tmp_path / "a", 1)
    (second,) = videos.make_videos(tmp_path / "b", 1)

    assert first.name == second.name
    frames = [list(av.open(str(path)).decode(video=0)) for path in (first, second)]
    assert len(frames[0]) == len(frames[1]) == 45
    assert all((a.to_ndarray() == b.to_ndarray()).all() for a, b in zip(*frames, strict=True))


def test_files_are_made_once(small, tmp_path):
    (path,) = videos.make_videos(tmp_path, 1)
    written_ns = path.stat().st_mtime_ns

    assert videos.make_videos(tmp_path, 1) == [path]
    assert path.stat().st_mtime_ns == written_ns
    assert list(tmp_path.iterdir()) == [path]


def test_prepared_copies_have_a_key_frame_every_30_frames(small, tmp_path):
    originals = videos.make_videos(tmp_path, 1)

    (copy,) = videos.prepare_videos(originals)

    original_keys, copied_keys = (
        [number for number, packet in enumerate(packets_of(path)) if packet.is_keyframe]
        for path in (originals[0], copy)
    )
    assert original_keys == [0]
    ends = [*copied_keys[1:], len(packets_of(copy))]
    assert max(end - key for key, end in zip(copied_keys, ends, strict=True)) <= 30


def test_files_are_like_those_of_kinetics():
    assert videos.SIZES_PX == ((256, 454), (256, 340))
    assert videos.X264["g"] == "250"
    assert videos.SECONDS == 10.0
