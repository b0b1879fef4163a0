"""A member of a tar shard reads like the file that was packed; nothing else is reached."""

from __future__ import annotations

import gc
import io
import os
import random
import tarfile
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from videos import real_videos, write_video

from slowfast_mvit.annotations.csv_lists import read_csv
from slowfast_mvit.annotations.records import ListSource
from slowfast_mvit.data.lists import VideoList
from slowfast_mvit.data.video import shards
from slowfast_mvit.data.video.readers import READERS, open_reader, read_image
from slowfast_mvit.data.video.shards import open_plain_file
from slowfast_mvit.errors import ConfigError, DecodeError

LONG = "a folder/" + "long name " * 20 + "ä 日本.bin"  # more than the 100 letters of a tar header


def write_tar(path: Path, members: dict[str, bytes], *, index: bool = True, **options) -> Path:
    with tarfile.open(path, "w", **options) as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    if index:
        write_index(path)
    return path


def write_index(path: Path) -> None:
    with open(path, "rb") as file:
        text = shards.index_text(shards.plain_members(file, path), path.stat().st_size, path)
    Path(f"{path}.index").write_bytes(text)


def some_members() -> dict[str, bytes]:
    draw = random.Random(0)
    names = ["a.bin", "b b.bin", "c/d.bin", "%41.bin", "-e\n.bin", LONG]
    names += [f"{number:03d}.bin" for number in range(50)]
    return {name: draw.randbytes(draw.randint(1, 3000)) for name in names}


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
@pytest.mark.parametrize("index", [True, False], ids=["with an index", "without an index"])
def test_every_member_reads_as_it_was_packed(tmp_path, form, index):
    members = some_members()
    if form == tarfile.USTAR_FORMAT:
        del members[LONG]
    path = write_tar(tmp_path / "a.tar", members, index=index, format=form)

    for name, content in members.items():
        with open_plain_file(path / name) as file:
            assert file.read() == content, name


def test_a_member_is_sought_like_a_file(tmp_path):
    content = bytes(range(256)) * 700  # longer than the buffer
    path = write_tar(tmp_path / "a.tar", {"x": b"before", "y": content, "z": b"after"})
    plain = io.BytesIO(content)
    draw = random.Random(1)

    with open_plain_file(path / "y") as file:
        assert file.seekable() and file.readable() and not file.writable()
        for _ in range(300):
            whence = draw.choice([os.SEEK_SET, os.SEEK_CUR, os.SEEK_END])
            offset = draw.randint(-2000, 2000) + (
                draw.randint(0, len(content)) if not whence else 0
            )
            try:
                expected = plain.seek(max(offset, 0) if not whence else offset, whence)
            except ValueError:
                continue
            if plain.tell() == 0 and offset < 0 and whence:
                plain.seek(file.tell())  # BytesIO stops at 0, a file refuses
                continue
            assert file.seek(max(offset, 0) if not whence else offset, whence) == expected
            size = draw.choice([0, 1, 100, 5000, 200_000, -1])
            assert file.read(size) == plain.read(size)
            assert file.tell() == plain.tell()
        with pytest.raises(OSError, match="before the start"):
            file.seek(-1)
        with pytest.raises(io.UnsupportedOperation):
            file.fileno()


def test_a_list_finds_its_shards_beside_it_or_in_the_working_folder(tmp_path, monkeypatch):
    write_tar(tmp_path / "s.tar", {"a.mp4": b"1"})
    for folder in (tmp_path, tmp_path / "lists"):
        folder.mkdir(exist_ok=True)
        (folder / "train.csv").write_text("s.tar/a.mp4 0\n")

    monkeypatch.chdir(tmp_path)
    beside = VideoList.of(read_csv(ListSource(tmp_path, "train")))[0]
    elsewhere = VideoList.of(read_csv(ListSource(tmp_path / "lists", "train")))[0]

    assert Path(beside.path) == tmp_path / "s.tar" / "a.mp4"
    assert Path(elsewhere.path) == Path("s.tar/a.mp4")


def test_names_that_tar_writes_with_a_dot_are_found(tmp_path):
    path = write_tar(tmp_path / "a.tar", {"./a.bin": b"1", "./b/c.bin": b"2"})

    with open_plain_file(path / "b" / "c.bin") as file:
        assert file.read() == b"2"


def test_a_folder_named_like_a_shard_stays_a_folder(tmp_path):
    (tmp_path / "a.tar").mkdir()
    (tmp_path / "a.tar" / "x.bin").write_bytes(b"plain")

    with open_plain_file(tmp_path / "a.tar" / "x.bin") as file:
        assert file.read() == b"plain"
    with pytest.raises(DecodeError, match="No such file"):
        open_plain_file(tmp_path / "missing.tar" / "x.bin")


@pytest.mark.parametrize("index", [True, False], ids=["with an index", "without an index"])
def test_members_that_are_missing_empty_or_outside_are_refused(tmp_path, index):
    path = write_tar(tmp_path / "a.tar", {"a.bin": b"1", "empty.bin": b""}, index=index)
    (tmp_path / "secret").write_bytes(b"secret")

    for name, problem in {
        "b.bin": "no member of this name",
        "a.bin/x": "no member of this name",
        "empty.bin": "the file is empty",
        "../secret": "not followed inside a shard",
        "x/../../secret": "not followed inside a shard",
    }.items():
        with pytest.raises(DecodeError, match=problem):
            open_plain_file(path / name)


def test_links_folders_and_devices_are_refused(tmp_path):
    path = tmp_path / "a.tar"
    kinds = {
        "link": tarfile.SYMTYPE,
        "hard": tarfile.LNKTYPE,
        "pipe": tarfile.FIFOTYPE,
        "disk": tarfile.BLKTYPE,
        "folder": tarfile.DIRTYPE,
        "sparse": tarfile.GNUTYPE_SPARSE,
    }
    offsets = {}
    with tarfile.open(path, "w") as archive:
        archive.addfile(tarfile.TarInfo("first"))
        for name, kind in kinds.items():
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            offsets[name] = archive.offset
            archive.addfile(info)

    for name in kinds:
        with pytest.raises(DecodeError, match="no member of this name"):
            open_plain_file(path / name)
    text = shards.index_text(offsets.items(), path.stat().st_size, path)  # a forged index
    Path(f"{path}.index").write_bytes(text)
    for name in kinds:
        with pytest.raises(DecodeError, match=r"not a plain file|no header at"):
            open_plain_file(path / name)


def test_names_that_lead_outside_or_repeat_are_not_indexed(tmp_path):
    path = write_tar(tmp_path / "a.tar", {"../x": b"1", "/y": b"2", "z": b"3"}, index=False)
    with open(path, "rb") as file:
        assert [name for name, _ in shards.plain_members(file, path)] == ["z"]

    twice = tmp_path / "b.tar"
    with tarfile.open(twice, "w") as archive:
        for _ in range(2):
            archive.addfile(tarfile.TarInfo("x y"))
    with pytest.raises(DecodeError, match="contains x y more than once"):
        open_plain_file(twice / "x y")


def test_a_wrong_or_damaged_index_is_an_error_and_not_another_video(tmp_path):
    members = {f"{number}.bin": bytes([number]) * 700 for number in range(20)}
    path = write_tar(tmp_path / "a.tar", members)
    index = Path(f"{path}.index")
    whole = index.read_bytes()
    head, *lines = whole.splitlines(keepends=True)

    def with_index(text: bytes, problem: str) -> None:
        index.write_bytes(text)
        with pytest.raises(DecodeError, match=problem):
            open_plain_file(path / "7.bin")

    with_index(b"", "empty")
    with_index(b"# something else\n", "no index of a shard")
    with_index(whole.replace(b"index 1: ", b"index 1: 1"), "the index of another shard")
    with_index(head + b"7.bin x\n", "damaged")
    with_index(head + b"7.bin 512", "damaged")
    with_index(head + b"7.bin 100\n", "no header at the offset|the end at the offset")
    with_index(head + b"7.bin 0\n", r"'0\.bin' at the offset of 7\.bin")
    with_index(head + b"7.bin 99999999999\n", "at the offset of 7.bin")
    for digits in (20, 5000, 20_000):
        with_index(head + b"7.bin " + b"9" * digits + b"\n", "damaged")
    with_index(head + b"7.bin " + b"9" * 18 + b"\n", "at the offset of 7.bin")
    with_index(whole.replace(b" 20 members", b" 20000 members"), "claims 20,000 members")
    for cut in range(len(head) + 1, len(whole), 17):
        index.write_bytes(whole[:cut])
        try:
            with open_plain_file(path / "7.bin") as file:
                assert file.read() == members["7.bin"]
        except DecodeError:
            pass
    assert len(lines) == 20


def test_a_damaged_or_shortened_shard_is_an_error(tmp_path):
    members = {f"{number}.bin": bytes([65 + number]) * 700 for number in range(4)}
    path = write_tar(tmp_path / "a.tar", members, index=False)
    whole = path.read_bytes()

    path.write_bytes(whole[:4000])  # within the third
    with pytest.raises(DecodeError, match=r"ends within '2\.bin'"):
        open_plain_file(path / "0.bin")
    path.write_bytes(whole[:4608])  # between the third and the fourth
    with pytest.raises(DecodeError, match="without the end-of-archive mark"):
        open_plain_file(path / "0.bin")
    path.write_bytes(whole[:5000])  # within the header of the fourth
    with pytest.raises(DecodeError, match="damaged at byte 4,608"):
        open_plain_file(path / "0.bin")
    path.write_bytes(whole[:1600] + b"#" * 50 + whole[1650:])  # the header of the second
    with pytest.raises(DecodeError, match="damaged at byte 1,536"):
        open_plain_file(path / "0.bin")
    path.write_bytes(b"no tar" * 1000)
    with pytest.raises(DecodeError, match="not an uncompressed tar file"):
        open_plain_file(path / "0.bin")


def headers(name: str, size: int | bytes, kind: bytes = tarfile.REGTYPE) -> bytes:
    """The header of a member, as tar writes it, which claims this size."""
    info = tarfile.TarInfo(name)
    info.type = kind
    block = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    block[124:136] = b"%011o\0" % size if isinstance(size, int) else size
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


@pytest.mark.parametrize(
    "content",
    [
        headers("a.bin", 8**11 - 1),
        headers("a.bin", b"\x80" + b"\x7f" * 11),
        headers("a.bin", b"\xff" * 11 + b"\0"),  # below zero
        headers("././@LongLink", 8**11 - 1, tarfile.GNUTYPE_LONGNAME),
        headers("x", b"\x80" + b"\x7f" * 11, tarfile.XHDTYPE),
        headers("././@LongLink", 1, tarfile.GNUTYPE_LONGNAME) * 3000,
    ],
    ids=["8 GB", "2**95 bytes", "a negative size", "a long name", "a pax header", "nested names"],
)
def test_sizes_that_a_header_claims_are_compared_with_the_shard(tmp_path, content):
    path = tmp_path / "a.tar"
    path.write_bytes(content + bytes(2048))
    tracemalloc.start()
    try:
        with pytest.raises(DecodeError):
            open_plain_file(path / "a.bin")
        text = shards.index_text([("a.bin", 0)], path.stat().st_size, path)
        Path(f"{path}.index").write_bytes(text)
        with pytest.raises(DecodeError):
            open_plain_file(path / "a.bin")
        assert tracemalloc.get_traced_memory()[1] < 20e6
    finally:
        tracemalloc.stop()


def test_a_shard_without_index_is_limited_read_once_and_again_when_changed(tmp_path, caplog):
    path = write_tar(tmp_path / "a.tar", {"a": b"1", "b": b"2"}, index=False)
    for name in "abab":
        open_plain_file(path / name).close()
    assert caplog.text.count("has no index and is scanned") == 1

    write_tar(path, {"a": b"1", "b": b"2", "c" * 90: b"3"}, index=False)
    os.utime(path, ns=(1, 1))
    with open_plain_file(path / ("c" * 90)) as file:
        assert file.read() == b"3"


def test_too_many_members_without_an_index_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "MAX_SCANNED_MEMBERS", 10)
    path = write_tar(tmp_path / "a.tar", {str(n): b"1" for n in range(11)}, index=False)

    with pytest.raises(DecodeError, match="more than 10 files and has no index"):
        open_plain_file(path / "3")
    write_index(path)
    open_plain_file(path / "3").close()


def test_no_descriptor_stays_open_without_the_garbage_collector(tmp_path):
    path = write_tar(tmp_path / "a.tar", {"a": b"1", "b": b"2"})
    descriptors = Path("/proc/self/fd")
    if not descriptors.is_dir():
        pytest.skip("needs /proc")
    gc.collect()
    gc.disable()
    try:
        before = len(list(descriptors.iterdir()))
        for _ in range(100):
            open_plain_file(path / "b").close()
            with pytest.raises(DecodeError):
                open_plain_file(path / "missing")
        assert len(list(descriptors.iterdir())) <= before
    finally:
        gc.enable()


@pytest.mark.parametrize("backend", sorted(READERS))
def test_every_reader_gives_the_frames_of_the_packed_file(tmp_path, backend):
    source = write_video(tmp_path / "a.mp4", 20)
    path = write_tar(tmp_path / "s.tar", {"x.mp4": b"?" * 999, "a.mp4": source.read_bytes()})
    try:
        with open_reader(source, backend) as reader:
            expected = reader.frames([0, 7, 19, 7])
    except (ConfigError, DecodeError, ImportError) as error:
        pytest.skip(f"this reader does not work here: {error}")

    with open_reader(path / "a.mp4", backend) as reader:
        assert reader.num_frames == 20
        torch.testing.assert_close(reader.frames([0, 7, 19, 7]), expected, rtol=0, atol=0)
    with pytest.raises(DecodeError, match=r"s\.tar/x\.mp4"), open_reader(path / "x.mp4", backend):
        pass


def test_images_are_read_from_a_shard(tmp_path):
    image = np.arange(5 * 7 * 3, dtype=np.uint8).reshape(5, 7, 3)
    content = io.BytesIO()
    Image.fromarray(image).save(content, "png")
    path = write_tar(tmp_path / "s.tar", {"n01/x.png": content.getvalue()})

    assert torch.equal(read_image(path / "n01" / "x.png"), torch.from_numpy(image))
    with open_reader(path / "n01" / "x.png") as reader:
        assert reader.num_frames == 1


@pytest.mark.parametrize("source", real_videos("edge_cases/good")[::6], ids=lambda p: p and p.name)
def test_real_files_read_the_same_from_a_shard(tmp_path, source):
    path = write_tar(tmp_path / "s.tar", {source.name: source.read_bytes()})

    with open_reader(source) as plain, open_reader(path / source.name) as packed:
        indices = [packed.num_frames - 1, 0]
        assert torch.equal(packed.frames(indices), plain.frames(indices))
