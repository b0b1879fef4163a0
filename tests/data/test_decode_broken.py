"""Broken, mutated and costly files: a DecodeError within a time limit or what they hold."""

from __future__ import annotations

import gc
import io
import os
import threading
import time
from fractions import Fraction
from types import SimpleNamespace

import av
import numpy as np
import pytest
from PIL import Image
from videos import real_videos, write_video

from slowfast_mvit.data.video import packet_checks, packets
from slowfast_mvit.data.video.readers import open_reader, working_reader
from slowfast_mvit.errors import ConfigError, DecodeError


@pytest.fixture(params=["pyav", "torchcodec", "decord"])
def backend(request):
    try:
        return working_reader(request.param)
    except ConfigError as error:
        pytest.skip(str(error).splitlines()[0])


@pytest.mark.parametrize("path", real_videos("edge_cases/bad"), ids=lambda path: path and path.name)
def test_broken_files_fail_with_their_name_or_give_what_they_hold(path, backend):
    # Those that decode: flipped bits that the decoder conceals, and an AVI cut between packets.
    readable = ("byteflip_20_mdat.mp4", "truncated50.avi")
    start_s = time.monotonic()

    try:
        with open_reader(path, backend) as reader:
            frames = reader.frames(range(reader.num_frames))
    except DecodeError as error:
        assert str(error).startswith(str(path))
        assert path.name not in readable or backend != "pyav"
    else:
        assert path.name in readable
        assert len(frames) == reader.num_frames

    assert time.monotonic() - start_s < 30


def flip_bits(data, rng):
    for place in rng.integers(0, len(data), size=30):
        data[place] ^= 1 << int(rng.integers(8))


def cut(data, rng):
    del data[rng.integers(len(data) // 4, len(data)) :]


def drop_a_piece(data, rng):
    start = rng.integers(0, len(data) - 200)
    del data[start : start + 200]


def zero_a_piece(data, rng):
    start = rng.integers(0, len(data) - 500)
    data[start : start + 500] = bytes(500)


def damage_the_header(data, rng):
    start = max(data.find(b"moov"), 0)
    for place in rng.integers(start, min(start + 800, len(data)), size=4):
        data[place] = int(rng.integers(256))


DAMAGES = (flip_bits, cut, drop_a_piece, zero_a_piece, damage_the_header)


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", ["a.mp4", "a.webm", "a.avi", "a.ts"])
def test_mutated_files_give_an_error_or_frames_and_nothing_else(tmp_path, name, damage, backend):
    codec = {"a.webm": "libvpx-vp9", "a.avi": "mpeg4"}.get(name, "libx264")
    whole = write_video(tmp_path / name, 12, codec=codec, options={"g": "6"}).read_bytes()
    rng = np.random.default_rng([DAMAGES.index(damage), len(name)])
    path = tmp_path / f"damaged_{name}"

    for _ in range(2):
        data = bytearray(whole)
        damage(data, rng)
        path.write_bytes(data)
        try:
            with open_reader(path, backend) as reader:
                frames = reader.frames([reader.num_frames - 1, 0])
        except DecodeError as error:
            assert str(path) in str(error)
        else:
            assert frames.shape == (2, 48, 64, 3)


@pytest.mark.parametrize("suffix", [".mpg", ".avi", ".webm"])
def test_a_file_without_end_is_given_up_in_time(tmp_path, monkeypatch, suffix):
    codec = {".webm": "libvpx-vp9", ".mpg": "mpeg2video"}.get(suffix, "mpeg4")
    path = write_video(tmp_path / f"a{suffix}", 5, fps=25, codec=codec)
    os.truncate(path, 1 << 40)  # a hole: it takes no room
    monkeypatch.setattr(packets, "MAX_SCAN_SECONDS", 0.3)
    monkeypatch.setattr(packets, "MAX_SECONDS", 0.3)
    start_s = time.monotonic()

    with pytest.raises(DecodeError, match=r"not read within 0\.3 s"), open_reader(path):
        pass

    assert time.monotonic() - start_s < 30


def test_a_stream_that_begins_later_on_does_not_end_the_reading():
    """PyAV then looks up a stream that it does not know (TS and FLV; at times, as memory lies)."""
    left = [SimpleNamespace(size=1), SimpleNamespace(size=0)]

    def demux(*streams):
        while left:
            yield left.pop(0)
        if not ended:
            ended.append(True)
            raise IndexError("list index out of range")

    ended: list[bool] = []

    packets = list(packet_checks.packets_of(SimpleNamespace(demux=demux)))

    assert [packet.size for packet in packets] == [1]
    assert ended


def test_too_many_packets_are_refused(tmp_path, monkeypatch):
    path = write_video(tmp_path / "a.mp4", 12)
    monkeypatch.setattr(packets, "MAX_PACKETS", 11)

    with pytest.raises(DecodeError, match="more than 11 frames"), open_reader(path):
        pass


def test_too_many_streams_are_refused(tmp_path):
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as container:
        for _ in range(packets.MAX_STREAMS):
            container.add_stream("pcm_s16le", rate=8000)
        stream = container.add_stream("mpeg4", rate=25)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        blank = av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), format="rgb24")
        container.mux([*stream.encode(blank), *stream.encode(None)])

    with (
        pytest.raises(DecodeError, match="65 streams; 64 are accepted"),
        open_reader(path),
    ):
        pass


def test_pictures_larger_than_the_file_says_are_refused(tmp_path, backend):
    path = tmp_path / "a.mkv"
    jpeg = io.BytesIO()
    Image.new("RGB", (4000, 3000)).save(jpeg, "jpeg")
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=1)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuvj420p"
        packet = av.Packet(jpeg.getvalue())
        packet.pts = packet.dts = 0
        packet.time_base = Fraction(1, 1)
        packet.stream = stream
        packet.is_keyframe = True
        container.mux(packet)

    with pytest.raises(DecodeError), open_reader(path, backend) as reader:
        reader.frames([0])


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="counts descriptors in /proc")
def test_threads_and_descriptors_are_given_back_without_the_garbage_collector(tmp_path, backend):
    path = write_video(tmp_path / "a.mp4", 3, size=(64, 64))
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(path.read_bytes()[:-100])

    def read_once(file):
        try:
            with open_reader(file, backend) as reader:
                reader.frames([0, 2])
        except DecodeError:
            assert file == broken

    def in_use():
        tasks = len(os.listdir("/proc/self/task"))
        return tasks, threading.active_count(), len(os.listdir("/proc/self/fd"))

    for file in (path, broken) * 2:
        read_once(file)
    gc.collect()
    before = in_use()
    gc.disable()
    try:
        for file in (path, broken) * 100:
            read_once(file)
        after = in_use()
    finally:
        gc.enable()

    assert after == before


def test_a_read_video_leaves_nothing_to_the_garbage_collector(tmp_path):
    """A frozen or disabled collector, as in training loops that avoid its pauses, would keep it."""
    path = write_video(tmp_path / "a.mp4", 3, size=(64, 64))
    gc.collect()
    gc.disable()

    try:
        for _ in range(3):
            with open_reader(path) as reader:
                reader.frames([0, 2])
            del reader
        assert gc.collect() == 0
    finally:
        gc.enable()
