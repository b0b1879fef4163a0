"""Opening large files: the index of an MP4 equals its scan, and a scan is made once."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import struct
import tarfile
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from test_decode_broken import damage_the_header
from test_decode_contract import GROUPS_OF_8, REAL, WRITTEN
from videos import REAL_VIDEOS, repeat_packets, sequential_frames, with_edit_list, write_video

from slowfast_mvit.data.video import packet_index, packets, probe, pyav_reader
from slowfast_mvit.data.video.mp4_index import claims_too_many, indexed_packets
from slowfast_mvit.data.video.packet_index import PacketIndex
from slowfast_mvit.data.video.readers import open_reader
from slowfast_mvit.data.video.shards import open_plain_file
from slowfast_mvit.errors import DecodeError


@pytest.fixture(autouse=True)
def an_empty_memory(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(packet_index, "_remembered", {})


def written(path, **options):
    return write_video(path, options=GROUPS_OF_8, container_options=options)


def cut_short(path):
    content = written(path, movflags="faststart").read_bytes()
    path.write_bytes(content[:-100])
    return path


def with_its_first_group_cut_off(path):
    path.write_bytes(with_edit_list(written(path).read_bytes(), 30, first=10))
    return path


MP4 = {name: write for name, (file, write) in WRITTEN.items() if file == "a.mp4"} | {
    "negative offsets": lambda path: written(path, movflags="negative_cts_offsets"),
    "no edit list": lambda path: written(path, use_editlist="0"),
    "the index at the end": written,
    "cut short": cut_short,
    "first group cut off": with_its_first_group_cut_off,
}
SCANNED = {"fragmented", "cut short", "first group cut off", "two edits"}


def columns_of(path, read):
    """The packets of a file by ``indexed_packets`` or by a scan, as lists."""
    with (
        open_plain_file(path) as file,
        packets.open_container(path, file, packets.Budget(path)) as container,
    ):
        found = read(file, container, packets.first_video_stream(path, container))
        return found and [column.tolist() for column in found]


def scan(file, container, stream):
    return packets._scanned_packets("", stream)


@pytest.mark.parametrize("name", MP4)
def test_the_index_of_an_mp4_is_that_of_a_scan(tmp_path, name):
    path = tmp_path / "a.mp4"
    MP4[name](path)

    by_index = columns_of(path, indexed_packets)

    assert (by_index is None) == (name in SCANNED)
    assert by_index in (None, columns_of(path, scan))


@pytest.mark.parametrize("path", REAL, ids=lambda path: path and path.name)
def test_the_index_of_a_real_file_is_that_of_a_scan(path):
    by_index = columns_of(path, indexed_packets)

    assert by_index in (None, columns_of(path, scan))
    assert by_index is None or path.suffix in (".mp4", ".mov")


@pytest.mark.parametrize("name", sorted(SCANNED))
def test_a_file_with_a_doubtful_index_is_scanned(tmp_path, monkeypatch, name):
    path = tmp_path / "a.mp4"
    MP4[name](path)
    with open_reader(path) as reader:
        expected = (reader.num_frames, reader.times_s.tolist())

    monkeypatch.setattr(packet_index, "LARGE_BYTES", 0)
    with open_reader(path) as reader:
        assert (reader.num_frames, reader.times_s.tolist()) == expected


def opened(path):
    """Frames and times of a file, or its error."""
    try:
        with open_reader(path) as reader:
            return reader.num_frames, reader.times_s.tolist(), reader.frames([0]).tolist()
    except DecodeError as error:
        return error.reason


def test_a_damaged_index_gives_what_a_scan_gives(tmp_path, monkeypatch):
    whole = written(tmp_path / "a.mp4").read_bytes()
    tables = [whole.index(name) for name in (b"stts", b"ctts", b"stss", b"stsz", b"elst", b"stco")]
    rng = np.random.default_rng(0)
    results = []

    for number in range(48):
        data = bytearray(whole)
        if number % 2:
            damage_the_header(data, rng)
        else:  # a count or one of the first values: huge, negative, or not in order
            start = tables[number // 2 % len(tables)] + 4 * int(rng.integers(1, 8))
            data[start : start + 4] = int(rng.choice([0, 1, 2**31 - 1, 2**32 - 1])).to_bytes(
                4, "big"
            )
        path = tmp_path / f"{number}.mp4"
        path.write_bytes(data)
        pair = []
        for large_bytes in (1 << 30, 0):
            monkeypatch.setattr(packet_index, "LARGE_BYTES", large_bytes)
            pair.append(opened(path))
        results.append(pair)

    assert [scanned for scanned, _ in results] == [indexed for _, indexed in results]


# Files that claim too much


def box(name, *fields):
    return struct.pack(f">I4s{len(fields)}i", 8 + 4 * len(fields), name, *fields)


def with_box(content, old, new):
    """The same MP4 with another box; the boxes around it get its size."""
    start = content.index(old) - 4
    size = int.from_bytes(content[start : start + 4], "big")
    content = content[:start] + new + content[start + size :]
    for name in (b"moov", b"trak", b"edts", b"mdia", b"minf", b"stbl", b"moof", b"traf"):
        place = content.rfind(name, 0, start) - 4
        end = place + int.from_bytes(content[place : place + 4], "big")
        if place >= 0 and end >= start + size:
            end += len(new) - size
            content = content[:place] + struct.pack(">I", end - place) + content[place + 4 :]
    return content


CLAIMS = {
    "samples of one size": ({}, b"stsz", (0, 1, 20_000_000)),
    "a fragment": ({"movflags": "empty_moov+default_base_moof"}, b"trun", (1, 20_000_000, 200)),
    "edits": ({}, b"elst", (0, 40_000, *(1000, 0, 65536) * 40_000)),
}


@pytest.mark.parametrize("name", CLAIMS)
def test_a_file_that_claims_more_frames_than_it_has_bytes_is_refused_unread(
    tmp_path, monkeypatch, name
):
    options, box_name, fields = CLAIMS[name]
    path = written(tmp_path / "a.mp4", **options)
    path.write_bytes(with_box(path.read_bytes(), box_name, box(box_name, *fields)))
    monkeypatch.setattr(packets.av, "open", None)  # there it would take a gigabyte

    with (
        pytest.raises(DecodeError, match="claims more frames than it has bytes"),
        open_reader(path),
    ):
        pass


def test_the_claims_of_every_real_file_are_accepted():
    for path in REAL_VIDEOS.rglob("*.m[op][v4]"):
        with open(path, "rb") as file:
            assert not claims_too_many(file)


# Bytes read


@pytest.fixture(scope="module")
def frames_of_noise(tmp_path_factory):
    """A second of video of 70 KB, with B frames."""
    options = {"qp": "1", **GROUPS_OF_8}
    return write_video(
        tmp_path_factory.mktemp("noise") / "a.mp4", 30, size=(96, 128), options=options
    )


@pytest.fixture
def bytes_read(monkeypatch):
    """Bytes that the readers have read from files, as a list that grows."""
    sizes = []

    class Counting(io.BufferedReader):
        def read(self, size=-1):
            content = super().read(size)
            sizes.append(len(content))
            return content

    @contextlib.contextmanager
    def counting(path):
        with open_plain_file(path) as file:
            yield Counting(file.raw)

    for module in (pyav_reader, probe):
        monkeypatch.setattr(module, "open_plain_file", counting)
    return sizes


def read_clip(path, sizes):
    """The frames of a short clip in the middle, and the bytes read for it."""
    del sizes[:]
    with open_reader(path) as reader:
        indices = range(reader.num_frames // 2, reader.num_frames // 2 + 8)
        return reader.frames(indices), sum(sizes)


def test_a_clip_of_a_long_mp4_reads_a_small_part_of_it(tmp_path, frames_of_noise, bytes_read):
    path = repeat_packets(frames_of_noise, tmp_path / "long.mp4", 300)
    expected = sequential_frames(frames_of_noise)

    frames, num_bytes = read_clip(path, bytes_read)

    assert path.stat().st_size > 15e6
    assert num_bytes < 5e6
    assert torch.equal(frames, torch.stack(expected[:8]))


def test_a_shard_is_remembered_by_its_large_members(tmp_path, frames_of_noise, bytes_read):
    long = repeat_packets(frames_of_noise, tmp_path / "long.mkv", 100)
    with tarfile.open(tmp_path / "a.tar", "w") as shard:
        for file in (long, frames_of_noise):
            shard.add(file, file.name)

    first, num_bytes = read_clip(tmp_path / "a.tar" / "long.mkv", bytes_read)
    assert num_bytes > long.stat().st_size
    again, num_bytes = read_clip(tmp_path / "a.tar" / "long.mkv", bytes_read)
    assert num_bytes < long.stat().st_size / 4
    assert torch.equal(again, first)
    read_clip(tmp_path / "a.tar" / frames_of_noise.name, bytes_read)
    assert len(packet_index._remembered) == 1


@pytest.mark.nightly
@pytest.mark.parametrize("name", ["long.mp4", "long.mkv"])
def test_a_video_of_ten_hours_is_read(tmp_path, name):
    segment = write_video(tmp_path / "a.mp4", 300, options={"g": "250", "bf": "3"})
    path = repeat_packets(segment, tmp_path / name, 3600)
    expected = sequential_frames(segment)

    with open_reader(path) as reader:
        assert reader.num_frames == 36_000 * 30
        assert reader.times_s[-1] == pytest.approx(36_000 - 1 / 30)
        frames = reader.frames([3, 540_007, 1_079_999])

    assert torch.equal(frames, torch.stack([expected[i] for i in (3, 7, 299)]))


def test_a_large_file_is_scanned_once_by_all_processes(tmp_path, frames_of_noise, bytes_read):
    path = repeat_packets(frames_of_noise, tmp_path / "long.mkv", 100)
    size = path.stat().st_size

    first, num_bytes = read_clip(path, bytes_read)
    assert num_bytes > size
    for memory in (packet_index._remembered, {}):
        packet_index._remembered = memory  # an empty one: of another process
        again, num_bytes = read_clip(path, bytes_read)
        assert num_bytes < size / 4
        assert torch.equal(again, first)

    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))
    assert read_clip(path, bytes_read)[1] > size


def test_a_damaged_or_unwritable_memory_does_no_harm(tmp_path, frames_of_noise, monkeypatch):
    path = repeat_packets(frames_of_noise, tmp_path / "long.mkv", 100)
    folder = tmp_path / "cache" / "slowfast_mvit" / "packets"
    with open_reader(path) as reader:
        expected = reader.times_s.tolist()
    (file,) = folder.iterdir()
    whole = file.read_bytes()

    for content in (b"", whole[:-5], b"other" + whole, whole[:4] + b"\xff" * 16 + whole[20:]):
        file.write_bytes(content)
        packet_index._remembered.clear()
        with open_reader(path) as reader:
            assert reader.times_s.tolist() == expected
        assert file.read_bytes() == whole

    folder.parent.chmod(0o777)  # another user may have written it
    for place in (tmp_path / "cache", path):  # the second is not a folder
        monkeypatch.setenv("XDG_CACHE_HOME", str(place))
        packet_index._remembered.clear()
        file.write_bytes(b"")
        with open_reader(path) as reader:
            assert reader.times_s.tolist() == expected
        assert file.read_bytes() == b""


def test_small_files_are_not_remembered(tmp_path):
    with open_reader(write_video(tmp_path / "a.mkv")):
        pass

    assert not packet_index._remembered
    assert not (tmp_path / "cache").exists()


def test_the_memory_of_a_process_is_bounded(monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "not absolute")  # nor is it written to the working folder
    index = PacketIndex(np.arange(9), np.arange(9) == 0, np.arange(9, dtype=np.int32))
    monkeypatch.setattr(packet_index, "MAX_REMEMBERED_BYTES", 3 * len(index.to_bytes()))

    for key in "abcd":
        packet_index.remember(key, index)
        packet_index.remembered("a")

    assert list(packet_index._remembered) == ["c", "d", "a"]


# Storage


def read_through(monkeypatch, read):
    """Let the reader read files with ``read(file, size)``."""

    @contextlib.contextmanager
    def opened(path):
        with open_plain_file(path) as file:
            others = {name: getattr(file, name) for name in ("seek", "tell", "seekable")}
            yield SimpleNamespace(read=lambda size: read(file, size), **others)

    monkeypatch.setattr(pyav_reader, "open_plain_file", opened)


def test_slow_storage_is_waited_for(tmp_path, monkeypatch):
    path = write_video(tmp_path / "a.mkv")
    monkeypatch.setattr(packets, "MAX_SCAN_SECONDS", 0.2)
    monkeypatch.setattr(packets, "MAX_SECONDS", 0.2)
    naps_s = [0.3]
    read_through(
        monkeypatch, lambda file, size: time.sleep(naps_s.pop() if naps_s else 0) or file.read(size)
    )

    with open_reader(path) as reader:
        naps_s += [0.3]
        assert len(reader.frames([0, 29])) == 2


@pytest.mark.parametrize("num_reads", [0, 1, 2])
def test_a_failure_of_the_storage_is_not_called_damage(tmp_path, monkeypatch, num_reads):
    path = write_video(tmp_path / "a.mkv", 60, size=(96, 128), options={"qp": "1"})
    left = [num_reads]

    def read(file, size):
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return file.read(size)

    read_through(monkeypatch, read)

    with (
        pytest.raises(DecodeError, match=r"a\.mkv: the storage failed .*\(Input/output error\)"),
        open_reader(path) as reader,
    ):
        left[0] = 1
        reader.frames([0, 59])
