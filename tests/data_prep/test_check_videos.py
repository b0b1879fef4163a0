"""Broken and shortened videos are detected, odd ones are not, and fields agree with ffmpeg."""

from __future__ import annotations

import hashlib
import io
import os
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from data_prep import check_videos
from data_prep.jobs import JobInput
from data_prep.journal import read_records
from data_prep.sources import inputs_in_folder
from slowfast_mvit.data.video.readers import open_reader
from slowfast_mvit.errors import UserError

REAL_VIDEOS = Path(__file__).resolve().parents[2].parent / "shared" / "videos"
needs_real_videos = pytest.mark.skipif(
    not REAL_VIDEOS.is_dir(), reason="the folder of real clips is not on this machine"
)


def write_video(
    path: Path, *, num_frames: int = 48, codec: str = "libx264", **stream_fields
) -> Path:
    """Noise that moves, 12 frames a second, a key frame every 24."""
    if codec not in av.codecs_available:
        pytest.skip(f"this PyAV has no encoder {codec}")
    noise = np.random.Generator(np.random.Philox(key=[3, 0]))
    image = noise.integers(0, 255, size=(96, 128, 3), dtype=np.uint8)
    options = {"movflags": "faststart"} if path.suffix == ".mp4" else {}
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream(codec, rate=12)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.gop_size = 24
        for name, value in stream_fields.items():
            setattr(stream, name, value)
        for number in range(num_frames):
            part = np.ascontiguousarray(image[number : number + 48, number : number + 64])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(part, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def check(path: Path) -> dict:
    return check_videos.check(JobInput(path.name, path))


def test_the_record_of_a_good_video_has_all_its_properties(tmp_path):
    path = write_video(tmp_path / "a.mp4")

    assert check(path) == {
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "container": "mov,mp4,m4a,3gp,3g2,mj2",
        "codec": "h264",
        "pix_fmt": "yuv420p",
        "fps": 12.0,
        "frames": 48,
        "key_frames": 2,
        "width": 64,
        "height": 48,
        "rotation": 0,
        "duration_s": 4.0,
        "status": "ok",
        "reason": "",
    }


@pytest.mark.parametrize(
    ("codec", "suffix"),
    [("libvpx", ".webm"), ("libvpx-vp9", ".webm"), ("libx264", ".mkv"), ("mpeg4", ".avi")],
)
def test_a_video_that_ends_early_fails(tmp_path, codec, suffix):
    path = write_video(tmp_path / f"a{suffix}", codec=codec, bit_rate=200_000)
    assert check(path)["status"] == "ok"
    content = path.read_bytes()

    for kept in (0.5, 0.8):
        path.write_bytes(content[: int(kept * len(content))])
        record = check(path)
        assert record["status"] == "failed", kept
        assert record["frames"] < 48
        assert record["reason"]


def test_a_webm_cut_between_two_packets_is_detected_by_its_length(tmp_path):
    """No decoder finds anything wrong with it; its duration is in the header."""
    path = write_video(tmp_path / "a.webm", codec="libvpx", bit_rate=200_000)
    with av.open(str(path)) as container:
        positions = [packet.pos for packet in container.demux() if packet.pos]
    path.write_bytes(path.read_bytes()[: positions[30]])

    record = check(path)

    assert record["status"] == "failed"
    assert "frames last" in record["reason"] and "4.00 s in the header" in record["reason"]


@pytest.mark.parametrize("damage", ["flipped", "zeros", "hole"])
def test_damaged_packets_fail_with_the_number_of_good_frames(tmp_path, damage):
    path = write_video(tmp_path / "a.mp4", bit_rate=400_000)
    content = bytearray(path.read_bytes())
    with av.open(str(path)) as container:
        packets = [(packet.pos, packet.size) for packet in container.demux() if packet.size]
    start, size = packets[30]
    if damage == "flipped":
        for place in range(start + 8, start + size, 7):
            content[place] ^= 0x55
    elif damage == "zeros":
        content[start : start + size] = bytes(size)
    else:
        del content[start + 5 : start + size // 2]
    path.write_bytes(content)

    record = check(path)

    assert record["status"] == "failed"
    assert 20 <= record["frames"] < 48


@pytest.mark.parametrize(
    "content", [b"", b"<html>404</html>", bytes(1000), b"#EXTM3U\nfile:///a.ts\n"]
)
def test_a_file_that_is_no_video_fails(tmp_path, content):
    path = tmp_path / "a.mp4"
    path.write_bytes(content)

    assert check(path)["status"] == "failed"
    assert check(tmp_path / "missing.mp4")["reason"].startswith("cannot be opened")


def test_frames_that_change_their_size_are_suspect(tmp_path):
    stream = io.BytesIO()
    for size in (48, 64):
        part = write_video(tmp_path / "part.h264", num_frames=6, width=size, height=size)
        stream.write(part.read_bytes())
    path = tmp_path / "a.ts"
    with (
        av.open(io.BytesIO(stream.getvalue()), format="h264") as raw,
        av.open(str(path), "w") as out,
    ):
        copy = out.add_stream_from_template(raw.streams.video[0])
        for number, packet in enumerate(packet for packet in raw.demux() if packet.size):
            packet.pts = packet.dts = number * 7500
            packet.time_base = Fraction(1, 90_000)
            packet.stream = copy
            out.mux(packet)

    record = check(path)

    assert record["status"] == "suspect"
    assert record["reason"] == "frames of different sizes: 48 x 48, 64 x 64"


def test_the_script_writes_records_and_names_files_with_one_content(tmp_path, capsys):
    videos = tmp_path / "videos"
    (videos / "more").mkdir(parents=True)
    content = write_video(videos / "a.mp4", num_frames=6).read_bytes()
    (videos / "more" / "copy of a.mp4").write_bytes(content)
    (videos / "broken.webm").write_bytes(b"?")
    (videos / "train.csv").write_text("a.mp4 0\nbroken.webm 1\n")

    words = [str(videos), "--out", str(tmp_path / "check.jsonl"), "--workers", "1"]
    assert check_videos.main(words) == 1
    assert "'a.mp4' = 'more/copy of a.mp4'" in capsys.readouterr().out
    table = (tmp_path / "check.duplicates.csv").read_text()
    assert table == "group,path\n0,a.mp4\n0,more/copy of a.mp4\n"
    statuses = {r["path"]: r["status"] for r in read_records(tmp_path / "check.jsonl")}
    assert statuses == {"a.mp4": "ok", "broken.webm": "failed", "more/copy of a.mp4": "ok"}

    words = [str(videos / "train.csv"), "--out", str(tmp_path / "list.jsonl"), "--workers", "1"]
    assert check_videos.main([*words, "--max-failed-fraction", "0.5"]) == 0
    assert [r["path"] for r in read_records(tmp_path / "list.jsonl")] == ["a.mp4", "broken.webm"]


def test_paths_come_from_standard_input_and_no_source_is_a_mistake(tmp_path, monkeypatch):
    path = write_video(tmp_path / os.fsdecode(b"not \xff UTF-8.mp4"), num_frames=6)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(os.fsencode(f"{path}\n"))))
    out = tmp_path / "check.jsonl"

    assert check_videos.main(["-", "--out", str(out), "--workers", "1"]) == 0
    assert [record["path"] for record in read_records(out)] == [str(path)]
    with pytest.raises(UserError, match=r"no videos\. Name a folder or a list"):
        check_videos.main(["--out", str(out)])
    with pytest.raises(UserError, match="no such file or folder"):
        check_videos.main([str(tmp_path / "missing"), "--out", str(out)])


@needs_real_videos
def test_every_broken_real_file_is_rejected():
    jobs = inputs_in_folder(REAL_VIDEOS / "edge_cases" / "bad")

    accepted = [job.name for job in jobs if check_videos.check(job)["status"] != "failed"]

    assert len(jobs) == 12
    assert not accepted


@needs_real_videos
def test_every_odd_real_file_is_accepted_and_has_the_frames_that_the_reader_has():
    jobs = inputs_in_folder(REAL_VIDEOS / "edge_cases" / "good")
    assert len(jobs) == 35

    for job in jobs:
        record = check_videos.check(job)
        with open_reader(job.path) as reader:
            height, width = reader.frames([0]).shape[1:3]
            assert record["status"] == "ok", (job.name, record["reason"])
            assert record["frames"] == reader.num_frames, job.name
            assert (record["width"], record["height"]) == (width, height), job.name
            assert record["fps"] == pytest.approx(reader.fps, abs=1e-5), job.name


@needs_real_videos
def test_every_odd_real_file_is_rejected_when_cut_short(tmp_path):
    jobs = inputs_in_folder(REAL_VIDEOS / "edge_cases" / "good")[::3]

    for job in jobs:
        path = tmp_path / f"cut{job.path.suffix}"
        path.write_bytes(job.path.read_bytes()[: int(0.95 * job.path.stat().st_size)])
        assert check(path)["status"] == "failed", job.name
