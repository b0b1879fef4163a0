"""The strict check, the reader and FFmpeg agree on every cut that is no damage.

FFmpeg shows a made-up grey frame where MPEG-4 begins in mid-group, at the time of another frame.
"""

from __future__ import annotations

import av
import numpy as np
import pytest
from videos import (
    REAL_VIDEOS,
    copy_packets,
    with_edit_list,
    write_palette,
    write_two_sizes,
    write_video,
    write_with_sound,
)

from data_prep import check_videos, resize_videos
from data_prep.jobs import JobInput
from slowfast_mvit.data.video import packets
from slowfast_mvit.data.video.readers import open_reader
from slowfast_mvit.errors import DecodeError

NUM_FRAMES = 40
GROUPS = {"g": "8", "keyint_min": "8", "sc_threshold": "0"}
OPEN = "open-gop=1:keyint=8:bframes=3:scenecut=0:repeat-headers=1"
OPEN_HEVC = "open-gop=1:keyint=8:min-keyint=8:log-level=none:pools=1:frame-threads=1"
SOURCES = {
    "closed": ("a.mp4", {"options": GROUPS}),
    "open": ("a.mp4", {"options": {"x264-params": OPEN}}),
    "hevc": ("a.mkv", {"codec": "libx265", "options": {"x265-params": OPEN_HEVC}}),
    "vp9": ("a.webm", {"codec": "libvpx-vp9", "options": {"cpu-used": "8", "g": "8"}}),
    "mpeg4": ("a.mp4", {"codec": "mpeg4", "options": {"g": "8", "bf": "2"}}),
    "ts": ("a.ts", {"options": {"x264-params": OPEN}}),
    "ps": ("a.mpg", {"codec": "mpeg2video", "fps": 25, "options": {"g": "8", "bf": "2"}}),
}


def copied(suffix, **changes):
    return suffix, lambda source, path: copy_packets(source, path, **changes)


def edited(**changes):
    def write(source, path):
        path.write_bytes(with_edit_list(source.read_bytes(), NUM_FRAMES, **changes))

    return ".mp4", write


def from_byte(share, suffix, block):
    def write(source, path):
        content = source.read_bytes()
        path.write_bytes(content[int(share * len(content)) // block * block :])

    return suffix, write


NEGATIVE = {"container_options": {"avoid_negative_ts": "disabled"}}
CUTS = {
    **{f"from {n}, mkv": copied(".mkv", first=n) for n in (0, 3, 8, 11, 13)},
    **{f"from {n}, mp4": copied(".mp4", first=n) for n in (3, 8, 13)},
    "up to 29": copied(".mkv", last=29),
    "before 0": copied(".mkv", earlier=25, **NEGATIVE),
    "hidden start": copied(".mp4", first=8, earlier=12),
}
EDITS = {
    f"edit {first}, {last}": edited(first=first, last=last) for first in (0, 5) for last in (7, 20)
}
OF_STREAMS = {
    **{f"ts, {share}": ("ts", *from_byte(share, ".ts", 188)) for share in (0.1, 0.25, 0.4, 0.6)},
    **{f"ps, {share}": ("ps", *from_byte(share, ".mpg", 2048)) for share in (0.1, 0.4)},
}
CASES = {
    **{
        f"{source}, {cut}": (source, *write)
        for source in ("closed", "open", "hevc", "vp9", "mpeg4")
        for cut, write in CUTS.items()
    },
    **{
        f"{source}, {cut}": (source, *write)
        for source in ("closed", "open", "mpeg4")
        for cut, write in EDITS.items()
    },
    **OF_STREAMS,
}
A_FEW = [
    *("closed, edit 0, 20", "open, from 11, mkv", "hevc, from 8, mp4", "mpeg4, from 3, mp4"),
    *("vp9, before 0", "closed, hidden start", "ts, 0.25", "ps, 0.4"),
]


@pytest.fixture(scope="module")
def folder_of_sources(tmp_path_factory):
    return tmp_path_factory.mktemp("sources")


def source_of(folder, name):
    file_name, settings = SOURCES[name]
    path = folder / f"{name}_{file_name}"
    return path if path.exists() else write_video(path, NUM_FRAMES, **settings)


def check(path):
    return check_videos.check(JobInput(path.name, path))


def resize(path, to):
    settings = {"short_side_px": 32, "preset": "ultrafast"}
    return resize_videos.resize(JobInput(path.name, path), to=str(to), encoding=settings)


def num_shown(path):
    """The frames that FFmpeg shows, at different times; packets that it cannot decode left out."""
    times, untimed = set(), 0
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        for packet in container.demux(stream):
            if packet.size or packet.dts is None:  # the last one ends the decoding
                try:
                    frames = stream.codec_context.decode(packet if packet.size else None)
                except av.error.FFmpegError:
                    continue
                times |= {frame.pts for frame in frames}
                untimed += sum(frame.pts is None for frame in frames)
    return len(times - {None}) + untimed


def assert_agreement(path, to=None):
    record = check(path)
    assert (record["status"], record["reason"]) == ("ok", "")
    with open_reader(path) as reader:
        assert reader.num_frames == record["frames"] == num_shown(path)
        assert record["fps"] == pytest.approx(reader.fps, abs=1e-5)
        assert len(reader.frames(range(reader.num_frames))) == reader.num_frames
        if to is None:
            return
        copy = resize(path, to)
        with open_reader(to / copy["resized"]) as other:
            assert other.num_frames == reader.num_frames
            assert other.fps == pytest.approx(reader.fps, rel=packets.WRONG_RATE)
            np.testing.assert_allclose(other.times_s, reader.times_s, atol=1.01e-3)


@pytest.mark.parametrize("name", A_FEW)
def test_a_cut_is_no_damage(folder_of_sources, tmp_path, name):
    source, suffix, write = CASES[name]
    path = tmp_path / f"a{suffix}"
    write(source_of(folder_of_sources, source), path)

    assert_agreement(path, tmp_path / "copies")


@pytest.mark.nightly
def test_all_cuts_are_no_damage(folder_of_sources, tmp_path):
    for name, (source, suffix, write) in CASES.items():
        path = tmp_path / f"{name}{suffix}"
        write(source_of(folder_of_sources, source), path)
        assert_agreement(path, tmp_path / "copies")


@pytest.mark.parametrize(
    ("name", "codec", "sound", "times"),
    [
        ("a.wmv", "wmv2", "wmav2", {"video_s": 1, "sound_s": 3}),
        ("a.wmv", "wmv2", "wmav2", {"video_s": 1, "sound_s": 3, "first_s": 1}),
        ("a.mp4", "libx264", "aac", {"video_s": 1, "sound_s": 3, "first_s": 1}),
        ("a.mkv", "libx264", "aac", {"video_s": 1, "sound_s": 3}),
        ("a.ts", "mpeg2video", "libmp3lame", {"video_s": 1, "sound_s": 3, "first_s": 1}),
    ],
)
def test_sound_that_is_longer_is_no_damage(tmp_path, name, codec, sound, times):
    path = write_with_sound(tmp_path / name, codec, sound, **times)

    assert_agreement(path)


@pytest.mark.parametrize(
    ("name", "codec", "group", "first"), [("a.wmv", "wmv2", 8, 24), ("a.mkv", "libx264", 120, 10)]
)
def test_a_file_that_starts_late_is_no_damage(tmp_path, name, codec, group, first):
    options = {"g": str(group), "keyint_min": str(group), "sc_threshold": "0", "bf": "0"}
    whole = write_video(tmp_path / f"whole_{name}", group + 20, codec=codec, options=options)

    assert_agreement(copy_packets(whole, tmp_path / name, first=first))


@pytest.mark.parametrize("name", ["closed", "open", "hevc", "vp9"])
def test_a_cut_that_is_also_damaged_fails(folder_of_sources, tmp_path, name):
    path = copy_packets(source_of(folder_of_sources, name), tmp_path / "a.mkv", first=11)
    assert check(path)["status"] == "ok"
    with av.open(str(path)) as container:
        places = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    content = bytearray(path.read_bytes())
    start, size = places[20]
    content[start + 12 : start + size + 8] = bytes(size - 4)
    path.write_bytes(content)

    assert check(path)["status"] == "failed"


def test_a_trimmed_file_that_is_also_cut_short_fails(tmp_path):
    plain = write_video(
        tmp_path / "plain.mp4",
        NUM_FRAMES,
        options=GROUPS,
        container_options={"movflags": "faststart"},
    )
    path = tmp_path / "a.mp4"
    content = with_edit_list(plain.read_bytes(), NUM_FRAMES, first=3, last=7)
    path.write_bytes(content[: int(0.7 * len(content))])

    assert check(path)["status"] == "failed"


def test_frames_of_different_sizes_are_scaled_to_the_first_as_the_reader_advises(tmp_path):
    path = write_two_sizes(tmp_path / "a.mkv")
    with (
        pytest.raises(DecodeError, match=r"Encode it again with data_prep/resize_videos\.py"),
        open_reader(path) as reader,
    ):
        reader.frames(range(reader.num_frames))
    assert check(path)["status"] == "suspect"

    copy = resize(path, tmp_path / "copies")

    assert (copy["frames"], copy["width"], copy["height"]) == (16, 42, 32)
    assert check(tmp_path / "copies" / "a.mp4")["status"] == "ok"


def test_frames_that_are_too_large_are_scaled_as_the_reader_advises(tmp_path, monkeypatch):
    path = write_video(tmp_path / "a.mp4", 4)
    monkeypatch.setattr(packets, "MAX_PIXELS", 2000)

    record = check(path)
    copy = resize(path, tmp_path / "copies")

    assert record["status"] == "suspect"
    assert "Scale the video down with data_prep/resize_videos.py" in record["reason"]
    assert (copy["frames"], copy["width"], copy["height"]) == (4, 42, 32)


@pytest.mark.parametrize(
    "write",
    [
        write_palette,
        lambda path: write_video(path, fps=60, pts=list(range(0, 60, 2))),
        lambda path: write_video(path, pts=[*range(12), *range(18, 36)]),
    ],
    ids=["palette", "claims twice its rate", "dropped frames"],
)
def test_odd_avi_files_are_copied_with_every_frame_at_its_time(tmp_path, write):
    assert_agreement(write(tmp_path / "a.avi"), tmp_path / "copies")


def test_a_colour_matrix_that_ffmpeg_does_not_convert_is_no_damage(tmp_path):
    options = {"x264-params": "colormatrix=YCgCo"}

    assert_agreement(write_video(tmp_path / "a.mp4", 5, options=options), tmp_path / "copies")


FIELD = REAL_VIDEOS.parent / "field" / "data"
RIGHT = {
    "e_tail.mp4": (50, 25),
    "raw_pal8.avi": (10, 25),
    "avi_copy_source_30fps.mp4": (120, 30),
    "avi_copy_of_mp4_30fps.avi": (120, 30),
    "matrix_ycgco.mp4": (40, 25),
    "open_gop_cut_hevc.mkv": (71, 30),
    "neg2.mkv": (40, 25),
}


@pytest.mark.skipif(not FIELD.is_dir(), reason="the files from the field are not on this machine")
@pytest.mark.parametrize("name", RIGHT)
def test_files_from_the_field_are_read_checked_and_copied(tmp_path, name):
    record = check(FIELD / name)

    assert (record["frames"], record["fps"]) == RIGHT[name]
    assert_agreement(FIELD / name, tmp_path)


@pytest.mark.nightly
@pytest.mark.skipif(not REAL_VIDEOS.is_dir(), reason="no folder of real clips on this machine")
def test_every_real_clip_is_accepted_with_the_frames_of_the_reader():
    suffixes = (".mp4", ".mkv", ".webm", ".avi", ".mov", ".mpg", ".flv", ".wmv")
    paths = [p for p in sorted(REAL_VIDEOS.rglob("*")) if p.suffix in suffixes]
    refused = {}
    for path in paths:
        if "bad" in path.parts or path.name == "corrupted.mp4":
            continue
        record = check(path)
        try:
            with open_reader(path) as reader:
                found = "ok", reader.num_frames
        except DecodeError as error:
            found = "failed", str(error)
        if (record["status"], record.get("frames")) != found:
            refused[path.name] = record["status"], record.get("frames"), record["reason"], found
    assert len(paths) > 100
    assert not refused
