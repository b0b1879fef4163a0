"""The contract of every reader: frame i is the i-th frame that ffmpeg shows, or a refusal.

The reference is the ffmpeg program where it is installed, else PyAV decoding every frame in turn.
Pictures are bit-equal; for libraries that bring an FFmpeg of another version, only 8-bit 4:2:0 of
even size is, and ``BOUNDS`` says what is allowed elsewhere. ``REFUSED`` is what readers decline.
"""

from __future__ import annotations

import functools
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from videos import (
    copy_packets,
    ffmpeg_frames,
    real_videos,
    sequential_frames,
    with_edit_list,
    with_matrix,
    with_rotation,
    write_palette,
    write_second_stream,
    write_two_sizes,
    write_video,
)

from slowfast_mvit.data.video.readers import open_reader, working_reader
from slowfast_mvit.errors import ConfigError, DecodeError

OPEN_GROUPS = {"x264-params": "open-gop=1:keyint=8:bframes=3"}
GROUPS_OF_8 = {"g": "8", "keyint_min": "8", "sc_threshold": "0"}


def mpeg4_in_avi(path):
    return write_video(path, codec="mpeg4", options={"bf": "2", "g": "8"})


def rotated(path, degrees):
    plain = write_video(path.with_name("plain.mp4"), 6, size=(32, 64))
    path.write_bytes(with_rotation(plain.read_bytes(), degrees))
    return path


def with_display_matrix(path, matrix):
    plain = write_video(path.with_name("plain.mp4"), 6, size=(32, 64))
    path.write_bytes(with_matrix(plain.read_bytes(), matrix))
    return path


def all_marked_as_key_frames(path):
    plain = write_video(path.with_name("plain.mp4"), codec="mpeg4", options={"g": "10"})
    path.write_bytes(plain.read_bytes().replace(b"stss", b"free"))  # the table of key frames
    return path


def copied(path, **changes):
    plain = write_video(path.with_name("plain.mp4"), options=changes.pop("options", GROUPS_OF_8))
    return copy_packets(plain, path, **changes)


def edited(path):
    plain = write_video(path.with_name("plain.mp4"), options=GROUPS_OF_8)
    path.write_bytes(with_edit_list(plain.read_bytes(), 30, first=5))
    return path


def trimmed(path):
    plain = write_video(path.with_name("plain.mp4"), options=GROUPS_OF_8)
    path.write_bytes(with_edit_list(plain.read_bytes(), 30, first=3, last=7))
    return path


def two_edits(path):
    """Twelve frames from the 15th on before the first twelve: an edit list of two parts."""
    late = write_video(path.with_name("late.mp4"), options=GROUPS_OF_8, pts=list(range(30, 60)))
    content = late.read_bytes()
    start = content.index(b"elst") + 12
    media_time = np.frombuffer(content[start + 16 : start + 20], dtype=">i4")[0]  # after a pause
    parts = [[400, media_time + 15 * 512, 1 << 16], [400, media_time, 1 << 16]]
    edits = np.array(parts, dtype=">i4").tobytes()
    path.write_bytes(content[:start] + edits + content[start + len(edits) :])
    return path


WRITTEN = {
    "B frames, one group": ("a.mp4", write_video),
    "B pyramid, closed groups": (
        "a.mp4",
        lambda path: write_video(path, options={"g": "8", "bf": "3", "b-pyramid": "normal"}),
    ),
    "open groups": ("a.mkv", lambda path: write_video(path, options=OPEN_GROUPS)),
    "open groups in mp4": ("a.mp4", lambda path: write_video(path, options=OPEN_GROUPS)),
    "intra only": ("a.mp4", lambda path: write_video(path, options={"g": "1"})),
    "fragmented": (
        "a.mp4",
        lambda path: write_video(
            path,
            options={"g": "8"},
            container_options={"movflags": "frag_keyframe+empty_moov"},
        ),
    ),
    "odd size": ("a.mp4", lambda path: write_video(path, size=(47, 63), pix_fmt="yuv444p")),
    "odd size, 4:2:0": (
        "a.webm",
        lambda path: write_video(path, 9, size=(47, 63), codec="libvpx-vp9"),
    ),
    "10 bit": ("a.mp4", lambda path: write_video(path, pix_fmt="yuv420p10le")),
    "grey": ("a.mp4", lambda path: write_video(path, pix_fmt="gray")),
    "interlaced": ("a.mp4", lambda path: write_video(path, options={"x264-params": "tff=1"})),
    "one frame": ("a.mp4", lambda path: write_video(path, 1)),
    "variable rate": (
        "a.mp4",
        lambda path: write_video(path, pts=[i * i // 4 + i for i in range(30)]),
    ),
    "late start": ("a.mp4", lambda path: write_video(path, pts=list(range(50, 80)))),
    "edit list": ("a.mp4", edited),
    "rotated by 90": ("a.mp4", lambda path: rotated(path, 90)),
    "rotated by 180": ("a.mp4", lambda path: rotated(path, 180)),
    "rotated by 270": ("a.mp4", lambda path: rotated(path, 270)),
    "second stream": (
        "a.mkv",
        lambda path: write_second_stream(path, codec="libx264", is_cover=False, first=False),
    ),
    "cover image first": (
        "a.mp4",
        lambda path: write_second_stream(path, codec="mjpeg", is_cover=True, first=True),
    ),
    "mirrored": ("a.mp4", lambda path: with_display_matrix(path, (-1, 0, 0, 1))),
    "upside down, mirrored": ("a.mp4", lambda path: with_display_matrix(path, (1, 0, 0, -1))),
    "rotated and mirrored": ("a.mp4", lambda path: with_display_matrix(path, (0, 1, 1, 0))),
    "rotated by 30": ("a.mp4", lambda path: with_display_matrix(path, (0.87, 0.5, -0.5, 0.87))),
    "matrix of zeros": ("a.mp4", lambda path: with_display_matrix(path, (0, 0, 0, 0))),
    "every packet marked as a key frame": ("a.mp4", all_marked_as_key_frames),
    "B frames, times of decoding": (
        "a.mp4",
        lambda path: copied(path, times_of_decoding=True),
    ),
    "no B frame among those allowed": ("a.mkv", lambda path: copied(path, options={"g": "1"})),
    "begins in mid-group": ("a.mkv", lambda path: copied(path, first=3)),
    "begins in mid-group, mp4": ("a.mp4", lambda path: copied(path, first=3)),
    "begins with an open group": (
        "a.mkv",
        lambda path: copied(path, options=OPEN_GROUPS, first=8),
    ),
    "gradual refresh": (
        "a.mp4",
        lambda path: write_video(
            path, 30, options={"x264-params": "intra-refresh=1:keyint=8:bframes=0"}
        ),
    ),
    "begins in mid-group, flv": ("a.flv", lambda path: copied(path, first=3)),
    "starts before 0": (
        "a.mkv",
        lambda path: copied(path, earlier=20, container_options={"avoid_negative_ts": "disabled"}),
    ),
    "trimmed at the end": ("a.mp4", trimmed),
    "two edits": ("a.mp4", two_edits),
    "palette": ("a.avi", write_palette),
    "tiny": ("a.mp4", lambda path: write_video(path, size=(32, 48))),
    "mpeg4 in avi": ("a.avi", mpeg4_in_avi),
    "mpeg transport stream": ("a.ts", lambda path: write_video(path, options={"g": "8"})),
    "mpeg program stream": (
        "a.mpg",
        lambda path: write_video(path, codec="mpeg2video", fps=25, options={"g": "8"}),
    ),
    "flash": ("a.flv", lambda path: write_video(path, options={"g": "8"})),
    "vp8, hidden frames": (
        "a.webm",
        lambda path: write_video(
            path,
            codec="libvpx",
            options={"auto-alt-ref": "1", "lag-in-frames": "16", "g": "16"},
        ),
    ),
    "vp9, 12 fps": (
        "a.webm",
        lambda path: write_video(path, codec="libvpx-vp9", fps=12, options={"cpu-used": "8"}),
    ),
}

UNTIMED = "do not say when they are shown"
# What each of these display matrices does to a frame (H, W, 3).
MIRRORED = {
    "mirrored": lambda frame: frame.flip(1),
    "upside down, mirrored": lambda frame: frame.flip(0),
    "rotated and mirrored": lambda frame: frame.transpose(0, 1),
}
SHOWN_AS = {**MIRRORED, "matrix of zeros": lambda frame: frame}
MID_GROUP = tuple(f"begins in mid-group{suffix}" for suffix in ("", ", mp4", ", flv"))
ODD_ANGLE = {"rotated by 30": "rotation of 30 degrees, not a multiple of 90"}
REFUSED = {
    "pyav": ODD_ANGLE,
    "torchcodec": {
        **ODD_ANGLE,
        **dict.fromkeys(MIRRORED, "shown mirrored"),
        "every packet marked as a key frame": UNTIMED,
        "B frames, times of decoding": UNTIMED,
        **dict.fromkeys(MID_GROUP, r"counts \d+ frames where the packets show"),
        "begins with an open group": "open GOP",
        "two edits": UNTIMED,
        "gradual refresh": "gradual refresh",
        "open groups": "open GOP",
        "open groups in mp4": "open GOP",
        "starts before 0": UNTIMED,
        "palette": "a palette",
        "mpeg4 in avi": UNTIMED,
        "mpeg transport stream": UNTIMED,
        "mpeg program stream": UNTIMED,
        "mpeg2.mpg": UNTIMED,
    },
    "decord": {
        **ODD_ANGLE,
        **dict.fromkeys(MIRRORED, "shown mirrored"),
        "every packet marked as a key frame": UNTIMED,
        "B frames, times of decoding": UNTIMED,
        **dict.fromkeys((*MID_GROUP, "begins with an open group"), "beginning in mid-group"),
        "gradual refresh": "gradual refresh",
        "flash": "FLV",
        "h264.flv": "FLV",
        "open groups": "open GOP",
        "open groups in mp4": "open GOP",
        "edit list": "edit list",
        "trimmed at the end": "edit list",
        "two edits": UNTIMED,
        "second stream": "several video streams",
        "tiny": "cannot read it",
        "starts before 0": UNTIMED,
        "palette": "a palette",
        "mpeg4 in avi": UNTIMED,
        "mpeg transport stream": UNTIMED,
        "mpeg program stream": UNTIMED,
        "h264_editlist_copycut.mp4": "edit list",
        "mpeg2.mpg": UNTIMED,
        "tiny_48x32.mp4": "cannot read it",
        "wmv2.wmv": "WMV",
        "discard_first_keyframe.mp4": "edit list",
        "h265_video.mp4": "open GOP",
    },
}

# decord 0.6 cannot decode AV1, decord2 can.
REFUSED_BY_SOME = {"decord": ("av1.mkv", "av1_video.mkv")}

# Largest mean and largest single difference in levels of 255 where FFmpeg's versions place the
# colour samples differently: saturated edges differ much and the rest little. The PyAV reader
# goes the program's own way there, so for it these hold only where the program is not installed.
BOUNDS = {
    "10 bit": (4, 200),
    "h264_10bit.mp4": (4, 200),
    "h264_10bits.mp4": (4, 200),
    "odd size, 4:2:0": (2, 200),
    "odd_211x159_vp9.webm": (2, 200),
    "interlaced": (5, 200),
}

# These codecs leave the last bit of the inverse transform open.
LAST_BIT = ("mpeg4 in avi", "divx.avi", "wmv2.wmv")


def bound(name, backend):
    if name in LAST_BIT:
        return (0.01, 1)
    is_exact = backend == "pyav" and shutil.which("ffmpeg")
    return (0, 0) if is_exact else BOUNDS.get(name, (0, 0))


def skip_without(backend):
    try:
        working_reader(backend)
    except ConfigError as error:
        pytest.skip(str(error).splitlines()[0])


def assert_keeps_the_contract(path, name, backend):
    skip_without(backend)
    if name in REFUSED[backend]:
        with (
            pytest.raises(DecodeError, match=REFUSED[backend][name]),
            open_reader(path, backend) as reader,
        ):
            reader.frames([0])
        return
    if name in REFUSED_BY_SOME.get(backend, ()):
        try:
            with open_reader(path, backend):
                pass
        except DecodeError:
            return
    expected = expected_frames(path, name)
    last = len(expected) - 1
    rng = np.random.default_rng(0)
    picks = [list(range(last + 1)), list(range(last, -1, -7)), [last] * 3]
    picks += [rng.integers(0, last + 1, size=4).tolist() for _ in range(2)]
    picks += [rng.integers(0, last + 1, size=4)]  # numbers of numpy

    with open_reader(path, backend) as reader:
        assert reader.num_frames == len(expected)
        assert reader.times_s.shape == (len(expected),)
        assert reader.times_s[0] == 0
        assert (np.diff(reader.times_s) > 0).all()
        for indices in picks:
            frames = reader.frames(indices)
            assert frames.dtype == torch.uint8
            wanted = torch.stack([expected[i] for i in indices])
            assert_same(frames, wanted, *bound(name, backend))


def assert_same(frames, expected, mean, most):
    assert frames.shape == expected.shape
    if most == 0:
        assert torch.equal(frames, expected)
        return
    difference = (frames.short() - expected.short()).abs()
    assert difference.max() <= most
    assert difference.float().mean((1, 2, 3)).max() <= mean


@functools.lru_cache(maxsize=1)
def expected_frames(path, name):
    """Frames as the ffmpeg program shows them; where there is none, as PyAV decodes them."""
    if frames := ffmpeg_frames(path):
        return frames
    if name in SHOWN_AS:  # PyAV tells the angle of a frame only
        return [SHOWN_AS[name](frame) for frame in sequential_frames(path.with_name("plain.mp4"))]
    return sequential_frames(path)


@pytest.fixture(scope="module")
def folder_of_written(tmp_path_factory):
    return tmp_path_factory.mktemp("written")


@pytest.mark.parametrize("backend", REFUSED)
@pytest.mark.parametrize("name", WRITTEN)
def test_every_reader_gives_the_frames_that_ffmpeg_shows(folder_of_written, name, backend):
    file_name, write = WRITTEN[name]
    path = folder_of_written / name / file_name
    if not path.exists():
        path.parent.mkdir()
        write(path)

    assert_keeps_the_contract(path, name, backend)


# Of the larger folders those that differ from the others and are short.
CLIPS = {
    "clips/torchcodec": (
        "discard_first_keyframe.mp4",
        "h264_10bits.mp4",
        "h265_video.mp4",
        "nasa_13013_rotated.mp4",
        "test_non_zero_start.mp4",
    ),
    "clips/decord": ("unordered.mov", "video_90.mov", "video_270.mov"),
}
REAL = real_videos("edge_cases/good") + [
    path
    for folder, names in CLIPS.items()
    for path in real_videos(folder)
    if not isinstance(path, Path) or path.name in names
]


@pytest.mark.parametrize("backend", REFUSED)
@pytest.mark.parametrize("path", REAL, ids=lambda path: path and path.name)
def test_every_reader_gives_the_frames_that_ffmpeg_shows_of_real_files(path, backend):
    assert_keeps_the_contract(path, path.name, backend)


@pytest.mark.parametrize("suffix", [".ts", ".mkv"])
@pytest.mark.parametrize("backend", ["pyav", "torchcodec"])
def test_pictures_that_change_their_size_are_refused(tmp_path, suffix, backend):
    skip_without(backend)
    path = write_two_sizes(Path(tmp_path) / f"both{suffix}")

    with pytest.raises(DecodeError), open_reader(path, backend) as reader:
        reader.frames(range(reader.num_frames))
