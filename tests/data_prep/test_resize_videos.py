"""Copies show what their sources show, frame by frame, whatever the source is like."""

from __future__ import annotations

import math
import shutil
import subprocess
from dataclasses import asdict
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from torch import Tensor

from data_prep import resize_videos
from data_prep.encode import Encoding, Times
from data_prep.jobs import JobInput
from data_prep.journal import read_records
from data_prep.sources import inputs_in_folder
from slowfast_mvit.data.video.readers import open_reader
from slowfast_mvit.errors import DecodeError, UserError

REAL_VIDEOS = Path(__file__).resolve().parents[2].parent / "shared" / "videos"
needs_real_videos = pytest.mark.skipif(
    not REAL_VIDEOS.is_dir(), reason="the folder of real clips is not on this machine"
)


def scene(number: int, height: int, width: int) -> np.ndarray:
    """A smooth image (H, W, 3) with four different corners and a bar that moves down."""
    y, x = np.mgrid[0:height, 0:width]
    image = np.stack([255 * x / width, 255 * y / height, 128 + 0 * x], axis=-1)
    top = 5 * number % (height - 8)
    image[top : top + 8] = 200
    return image.astype(np.uint8)


def write_video(
    path: Path,
    *,
    size: tuple[int, int] = (96, 128),
    pts: tuple[int, ...] = tuple(range(40)),
    rate: int = 12,
    codec: str = "libx264",
    **codec_fields,
) -> Path:
    """Frame i of ``size`` (H, W) is shown at ``pts[i]`` / ``rate`` seconds."""
    if codec not in av.codecs_available:
        pytest.skip(f"this PyAV has no encoder {codec}")
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate)
        stream.height, stream.width = size
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = Fraction(1, rate)
        stream.bit_rate = 2_000_000
        for name, value in codec_fields.items():
            setattr(stream.codec_context, name, value)
        for number, shown in enumerate(pts):
            frame = av.VideoFrame.from_ndarray(scene(number, *size), format="rgb24")
            frame.pts, frame.time_base = shown, Fraction(1, rate)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def resize(path: Path, to: Path, **encoding) -> dict:
    fields = asdict(Encoding(**{"short_side_px": 48, "crf": 10.0, **encoding}))
    return resize_videos.resize(JobInput(path.name, path), to=str(to), encoding=fields)


def all_frames(path: Path) -> tuple[Tensor, np.ndarray]:
    """(N, 3, H, W) float, and the time of each."""
    with open_reader(path) as reader:
        frames = reader.frames(range(reader.num_frames))
        return frames.permute(0, 3, 1, 2).float(), reader.times_s


def assert_same_pictures(copy: Path, source: Path, levels: float) -> None:
    """Scaled to the size of the copy, the source differs by less than ``levels`` on average."""
    shown, times_s = all_frames(copy)
    expected, expected_times_s = all_frames(source)
    scaled = torch.nn.functional.interpolate(
        expected, shown.shape[-2:], mode="bicubic", antialias=True
    ).clamp(0, 255)
    assert len(shown) == len(expected)
    assert (shown - scaled).abs().mean(dim=(1, 2, 3)).max() < levels
    np.testing.assert_allclose(times_s, expected_times_s, atol=1.01e-3)  # WebM counts in ms


@pytest.mark.parametrize(
    ("width", "height", "expected"),
    [
        (1280, 720, (456, 256)),  # 455.1 -> 456: the nearest even number
        (720, 1280, (256, 456)),
        (640, 480, (342, 256)),  # 341.3
        (340, 256, (340, 256)),
        (320, 240, (320, 240)),  # not enlarged
        (211, 159, (212, 160)),  # made even
    ],
)
def test_sizes_keep_the_shape_and_are_even(width, height, expected):
    assert Encoding().size_of(width, height) == expected


def test_sizes_can_be_enlarged_or_fixed_and_odd_ones_are_refused():
    assert Encoding(enlarge=True).size_of(320, 240) == (342, 256)
    assert Encoding(size_px=(340, 256)).size_of(320, 240) == (340, 256)
    with pytest.raises(UserError, match="even numbers, 16 to 4096"):
        Encoding(short_side_px=255)


@pytest.mark.parametrize(
    "matrix",
    [
        pytest.param((-1, 0, 0, 1), id="mirrored"),
        pytest.param((1, 0, 0, -1), id="upside down, mirrored"),
        pytest.param((-1, 0, 0, -1), id="upside down"),
        pytest.param((0, 1, -1, 0), id="turned"),
        pytest.param((0, -1, 1, 0), id="turned back"),
        pytest.param((0, 1, 1, 0), id="rows and columns exchanged"),
    ],
)
def test_a_copy_is_upright_for_all_rotations_of_its_source(tmp_path, matrix):
    source = write_video(tmp_path / "a.mp4", pts=tuple(range(4)))
    data = bytearray(source.read_bytes())
    start = data.index(b"tkhd") + 44  # its matrix (a, b, u, c, d, v, x, y, w), ISO 14496-12, 8.3.2
    a, b, c, d = (number * 65536 for number in matrix)
    data[start : start + 32] = np.array([a, b, 0, c, d, 0, 0, 0], dtype=">i4").tobytes()
    source.write_bytes(data)

    record = resize(source, tmp_path / "to", short_side_px=96)

    assert (record["width"], record["height"]) == ((128, 96) if matrix[0] else (96, 128))
    assert record["rotation"] == 0
    assert_same_pictures(tmp_path / "to" / record["resized"], source, levels=2.0)


@pytest.mark.parametrize(
    ("codec", "suffix"),
    [("libx264", ".mp4"), ("libvpx", ".webm"), ("mpeg4", ".avi"), ("mpeg2video", ".mpg")],
)
def test_a_copy_shows_the_frames_of_its_source_at_its_times(tmp_path, codec, suffix):
    rate = 25 if codec == "mpeg2video" else 12
    source = write_video(tmp_path / f"a{suffix}", codec=codec, rate=rate)

    record = resize(source, tmp_path / "to")

    assert_same_pictures(tmp_path / "to" / "a.mp4", source, levels=6.0)
    assert (record["width"], record["height"], record["frames"]) == (64, 48, 40)
    assert record["fps"] == rate
    assert record["resized"] == "a.mp4"
    assert record["resized_bytes"] == (tmp_path / "to" / "a.mp4").stat().st_size


def test_uneven_times_stay_as_they_are(tmp_path):
    pts = (0, 1, 2, 5, 6, 10, 11, 12, 13, 20, 21, 30)
    source = write_video(tmp_path / "a.mp4", pts=pts)

    resize(source, tmp_path / "to")

    _, times_s = all_frames(tmp_path / "to" / "a.mp4")
    np.testing.assert_allclose(times_s, np.array(pts) / 12, atol=1e-9)


def test_times_that_a_format_rounded_are_written_exactly():
    milliseconds = [round(1000 * n / 12) for n in range(100)]

    times = Times(milliseconds, Fraction(1, 1000), [Fraction(12)])
    uneven = Times([7, 57, 207], Fraction(1, 1000), [Fraction(12)])
    unknown = Times(None, Fraction(1, 1000), [None, Fraction(30)])

    assert (times.rate, times.time_base, times.of(99)) == (12, Fraction(1, 12), 99)
    assert [uneven.of(n) for n in range(3)] == [0, 50, 200]
    assert (unknown.time_base, unknown.of(5)) == (Fraction(1, 30), 5)


def test_square_pixels_come_out_of_others(tmp_path):
    source = write_video(tmp_path / "a.mp4", sample_aspect_ratio=Fraction(3, 2))

    record = resize(source, tmp_path / "to")

    assert (record["width"], record["height"]) == (96, 48)
    with av.open(str(tmp_path / "to" / "a.mp4")) as container:
        assert container.streams.video[0].sample_aspect_ratio in (None, 0, 1)  # 0: not given


def test_the_stream_is_quick_to_decode_and_has_no_sound(tmp_path):
    source = write_video(tmp_path / "a.mp4", pts=tuple(range(70)))

    record = resize(source, tmp_path / "to")
    slow = resize(source, tmp_path / "slow", fastdecode=False, keyint=5)

    path = tmp_path / "to" / "a.mp4"
    settings = path.read_bytes().split(b"x264 - core")[1].split(b"\0")[0].split()
    assert {b"cabac=0", b"deblock=0:0:0", b"keyint=30", b"threads=1", b"crf=10.0"} <= set(settings)
    assert record["key_frames"] >= 3
    assert slow["key_frames"] >= 14
    assert b"cabac=1" in (tmp_path / "slow" / "a.mp4").read_bytes()
    content = path.read_bytes()
    assert content.index(b"moov") < content.index(b"mdat")
    with av.open(str(path)) as container:
        assert [stream.type for stream in container.streams] == ["video"]


def test_a_damaged_source_leaves_no_copy_and_an_old_copy_goes(tmp_path):
    source = write_video(tmp_path / "a.webm", codec="libvpx")
    resize(source, tmp_path / "to")
    source.write_bytes(source.read_bytes()[: source.stat().st_size // 2])

    with pytest.raises(DecodeError, match=r"a\.webm: "):
        resize(source, tmp_path / "to")

    assert list((tmp_path / "to").iterdir()) == []


def command(*words: object) -> int:
    return resize_videos.main([*map(str, words), "--workers", "1", "--short-side", "32"])


def test_the_script_copies_lists_and_leaves_failures_out(tmp_path, capsys):
    videos, to, out = tmp_path / "videos", tmp_path / "to", tmp_path / "out.jsonl"
    write_video(videos / "one class" / "a b.webm", codec="libvpx", pts=tuple(range(6)))
    write_video(videos / "c.avi", codec="mpeg4", pts=tuple(range(6)))
    write_video(videos / "not listed.mp4", pts=tuple(range(6)))
    (videos / "broken.mp4").write_bytes(b"?")
    (videos / "train.csv").write_text('"one class/a b.webm" 3\nbroken.mp4 1\nc.avi 0\n')
    (videos / "classes.txt").write_text("w\nx\ny\nz\n")

    words = (videos, "--to", to, "--out", out, "--list", videos / "train.csv")
    assert command(*words) == 1
    assert "train.csv: 2 of 3 videos" in capsys.readouterr().out

    assert (to / "train.csv").read_text() == '"one class/a b.mp4" 3\nc.mp4 0\n'
    assert (to / "classes.txt").read_text() == "w\nx\ny\nz\n"
    files = sorted(path.relative_to(to).as_posix() for path in to.rglob("*") if path.is_file())
    assert files == ["c.mp4", "classes.txt", "one class/a b.mp4", "train.csv"]
    assert [record["status"] for record in read_records(out)] == ["failed", "ok", "ok"]

    written = (to / "c.mp4").stat().st_mtime_ns
    (to / "one class" / "a b.mp4").unlink()
    assert command(*words, "--max-failed-fraction", "0.5") == 0
    assert (to / "one class" / "a b.mp4").exists()  # made again
    assert (to / "c.mp4").stat().st_mtime_ns == written  # not made again
    with pytest.raises(UserError, match="encoding was"):
        command(*words, "--crf", "30")


def test_names_that_meet_and_folders_inside_each_other_are_refused(tmp_path):
    videos = tmp_path / "videos"
    for name in ("a.webm", "a.mp4"):
        (videos / name).parent.mkdir(exist_ok=True)
        (videos / name).write_bytes(b"?")

    with pytest.raises(UserError, match=r"a\.mp4 and a\.webm would both become a\.mp4"):
        command(videos, "--to", tmp_path / "to", "--out", tmp_path / "out.jsonl")
    with pytest.raises(UserError, match="a folder outside of it"):
        command(videos, "--to", videos / "small", "--out", tmp_path / "out.jsonl")
    (tmp_path / "elsewhere.mp4").write_bytes(b"?")
    (tmp_path / "train.csv").write_text(f"{tmp_path}/elsewhere.mp4 0\n")
    words = (videos, "--to", tmp_path / "to", "--out", tmp_path / "out.jsonl")
    with pytest.raises(UserError, match=r"elsewhere\.mp4 is not below"):
        command(*words, "--list", tmp_path / "train.csv")
    (tmp_path / "train.csv").write_text("nowhere/a.mp4 0\n")
    with pytest.raises(UserError, match=r"none of its 1 videos is there .*start from"):
        command(*words, "--list", tmp_path / "train.csv")


def test_options_that_x264_does_not_know_are_refused_before_anything_is_written(tmp_path):
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "a.mp4").write_bytes(b"?")
    words = (tmp_path / "videos", "--to", tmp_path / "to", "--out", tmp_path / "out.jsonl")

    with pytest.raises(UserError, match="3 problems") as caught:
        command(*words, "--crf", "nan", "--keyint", "0", "--preset", "mediun")
    assert "--preset mediun: Did you mean medium?" in str(caught.value)
    with pytest.raises(SystemExit):
        command(*words, "--size", "340")
    (tmp_path / "videos" / "a.mp4").unlink()
    with pytest.raises(UserError, match="no videos there"):
        command(*words)
    assert not (tmp_path / "to").exists()


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="the ffmpeg program is not installed")
def test_the_copy_is_as_good_as_that_of_the_ffmpeg_program(tmp_path):
    source = write_video(tmp_path / "a.mp4", size=(240, 320))
    words = "-map 0:v:0 -vf scale=-2:128:flags=bicubic,setsar=1 -fps_mode passthrough"
    words += " -c:v libx264 -preset medium -crf 23 -g 30 -tune fastdecode -threads 1"
    program = ["ffmpeg", "-v", "error", "-nostdin", "-i", f"file:{source}", *words.split()]
    subprocess.run([*program, str(tmp_path / "program.mp4")], check=True)

    resize(source, tmp_path / "to", short_side_px=128, crf=23.0)

    (copy, _), (reference, _), (whole, _) = map(
        all_frames, (tmp_path / "to" / "a.mp4", tmp_path / "program.mp4", source)
    )
    scaled = torch.nn.functional.interpolate(whole, (128, 170), mode="bicubic", antialias=True)
    errors = [float((frames - scaled).square().mean()) for frames in (copy, reference)]
    psnr = [10 * math.log10(255**2 / error) for error in errors]
    assert psnr[0] == pytest.approx(psnr[1], abs=0.2)
    assert psnr[0] > 30


@needs_real_videos
@pytest.mark.parametrize(
    "name",
    [
        *("rotate_90.mp4", "rotate_180.mp4", "h264_vfr.mp4", "h264_editlist_copycut.mp4"),
        *("odd_211x159_444.mp4", "h264_10bit.mp4", "full_range_yuvj420p.mp4", "one_frame.webm"),
        *("audio_stream_first.webm", "wmv2.wmv", "mpeg2.mpg", "av1.mkv", "divx.avi", "vp8.webm"),
    ],
)
def test_odd_real_files_are_copied_with_every_frame_at_its_time(tmp_path, name):
    source = REAL_VIDEOS / "edge_cases" / "good" / name

    record = resize(source, tmp_path, short_side_px=96)

    assert record["rotation"] == 0
    assert_same_pictures(tmp_path / record["resized"], source, levels=4.0)


@needs_real_videos
def test_broken_real_files_are_not_copied(tmp_path):
    for job in inputs_in_folder(REAL_VIDEOS / "edge_cases" / "bad"):
        with pytest.raises(DecodeError):
            resize(job.path, tmp_path)
    assert list(tmp_path.iterdir()) == []
